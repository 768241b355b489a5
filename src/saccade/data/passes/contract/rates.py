"""Is one step of the model as long in these recordings, and do its windows fit into them?"""

import numpy as np
from jaxtyping import Float64

from saccade.data.episodes import Subset
from saccade.data.passes.contract.findings import Finding, Recording, Sample, nearest
from saccade.data.passes.convert import times_are_recorded
from saccade.data.passes.words import counted
from saccade.data.windows import ClipWindow

OFF = 0.02  # of an interval: header and times agree
TRAP = 0.25  # of an interval: they do not at all; of a step: it is another one
JITTER = 0.25  # of an interval
HOLE = 1.5  # intervals
UNEVEN, WRONG = 0.05, 0.2  # shares of steps off by more than TRAP: they warn, and fail
WINDOWS = (8, 16)  # frames
PER_EPISODE = 64  # windows of which the steps are measured
REPEATED, CHANGES = 0.8, 8  # share of runs of one length, and how many runs that takes


def check_rates(sample: Sample) -> list[Finding]:
    """Run every check of times and windows."""
    return [rate(sample), step(sample), windows(sample)]


def rate(sample: Sample) -> Finding:
    """Whether the header's rate is that of the frames."""
    check, fps = "frame rate", sample.source.fps
    expected = "times that say what the header says, one new frame each"
    gaps = [np.diff(r.times) for r in sample.recordings if len(r.times) > 1]
    if not gaps:
        return sample.undecided(check, expected, "no episode has two frames")
    if (found := _repetition(sample)) is not None:
        return found
    if not times_are_recorded(sample.source):
        mend = "compare it with what is published of the data; a container's rate may be wrong"
        return sample.undecided(check, expected, f"{fps:g} Hz by header, no times recorded", mend)
    rows = np.concatenate(gaps)
    interval = _interval(rows)
    jitter, holes = float(np.quantile(np.abs(rows - interval), 0.95)), rows > HOLE * interval
    told = f"{1 / interval:.4g} Hz by times, {fps:g} Hz by header; jitter {jitter * 1000:.1f} ms "
    told += f"(95 %), {counted(int(holes.sum()), 'hole')}, longest {rows.max():.3g} s"
    off = abs(interval * fps - 1)
    verdict, mend = "ok", ""
    if off > TRAP:
        verdict = "fails"
        mend = f"give the reader {1 / interval:.4g} Hz: windows look for frames at the header's"
    elif off > OFF or jitter > JITTER * interval or holes.mean() > 0.01:
        verdict, mend = "warning", "sample by times (windows with step_seconds do)"
    return Finding(
        check=check,
        verdict=verdict,
        found=told,
        expected=expected,
        mend=mend,
        numbers={
            "header_hz": fps,
            "hz": 1 / interval,
            "jitter_s": jitter,
            "holes": int(holes.sum()),
            "longest_s": float(rows.max()),
        },
        **sample.size,
    )


def step(sample: Sample) -> Finding:
    """Whether frames that are nearest to the asked times are one step apart."""
    span = sample.step_seconds
    check, expected = "step duration", f"{span:g} s between frames of a clip"
    spans = [_steps_of_windows(sample, r) for r in sample.recordings]
    rows = np.concatenate([*spans, np.zeros(0)])
    if not len(rows):
        return sample.undecided(check, expected, f"no {WINDOWS[0]} frames fit into an episode")
    middle, low, high = float(np.median(rows)), float(rows.min()), float(rows.max())
    uneven = float((np.abs(rows - span) > TRAP * span).mean())
    interval = _interval(np.concatenate([np.diff(r.times) for r in sample.recordings]))
    if abs(interval * sample.source.fps - 1) < OFF:
        interval = 1 / sample.source.fps
    whole = max(round(span / interval), 1) * interval
    verdict, mend = "ok", ""
    if uneven > UNEVEN:
        verdict = "fails" if uneven > WRONG else "warning"
        mend = f"steps come out even with --step-seconds {whole:.3g}"
    return Finding(
        check=check,
        verdict=verdict,
        found=f"median {middle:.3g} s, {low:.3g} to {high:.3g}; "
        f"{uneven:.1%} of steps off by over {TRAP:.0%}",
        expected=expected,
        mend=mend,
        numbers={"median_s": middle, "min_s": low, "max_s": high, "uneven": uneven},
        episodes=sum(len(s) > 0 for s in spans),
        frames=sum(len(r.times) for r, s in zip(sample.recordings, spans, strict=True) if len(s)),
    )


def windows(sample: Sample) -> Finding:
    """Whether clips of 8 and 16 frames fit between the ends of episodes and between holes."""
    span = sample.step_seconds
    seconds = " and ".join(f"{(n - 1) * span:.4g} s" for n in WINDOWS)
    check, expected = "windows", f"room for {WINDOWS[0]} and {WINDOWS[1]} frames ({seconds})"
    if not sample.recordings:
        return sample.undecided(check, expected, "no episode can be read")
    part = Subset(sample.source, [r.episode for r in sample.recordings])
    told, numbers = [], {}
    for frames in WINDOWS:
        window = ClipWindow(num_frames=frames, step_seconds=span)
        room = window.starts(part, window.gaps()[0]).counts[:, 0]
        fitting = int((room > 0).sum())
        numbers[str(frames)] = {"windows": int(room.sum()), "episodes": fitting}
        told.append(f"{frames} frames: {counted(int(room.sum()), 'window')} in {fitting:,}")
    short, long = (numbers[str(frames)]["episodes"] for frames in WINDOWS)
    verdict, mend = "ok", ""
    if not short:
        verdict, mend = "fails", "record longer episodes, shorten the step, or look at the rate"
    elif not long:
        verdict, mend = "warning", f"train on clips of {WINDOWS[0]} frames"
    elif short < len(part.lengths) / 2:
        verdict, mend = "warning", "most episodes give no window: shorter clips use more of them"
    return Finding(
        check=check,
        verdict=verdict,
        found=f"{'; '.join(told)} of {counted(len(part.lengths), 'episode')}",
        expected=expected,
        mend=mend,
        numbers=numbers,
        **sample.size,
    )


def _interval(gaps: Float64[np.ndarray, " n"]) -> float:
    """Return the mean time between frames, without holes."""
    return float(gaps[gaps <= HOLE * np.median(gaps)].mean())


def _steps_of_windows(sample: Sample, recording: Recording) -> Float64[np.ndarray, " n"]:
    """Return how long the steps of some clips really are."""
    window = ClipWindow(num_frames=WINDOWS[0], step_seconds=sample.step_seconds)
    starts = window.starts(Subset(sample.source, [recording.episode]), window.gaps()[0])
    count = int(starts.counts[0, 0])
    if not count:
        return np.zeros(0)
    places = np.unique(np.linspace(0, count - 1, min(count, PER_EPISODE)).astype(np.int64))
    none = np.zeros_like(places)
    times = recording.times
    wanted = times[starts.frames(none, none, places), None]
    wanted = wanted + np.arange(WINDOWS[0]) * sample.step_seconds
    return np.diff(times[nearest(times, wanted)], axis=1).ravel()


def _repetition(sample: Sample) -> Finding | None:
    """Find numbers that change every k-th frame only: the frames of a slower recording."""
    runs = []
    for r in sample.recordings:
        changes = (np.diff(r.state, axis=0) != 0).any(1)
        runs.append(np.diff(np.flatnonzero(changes)))
    lengths = np.concatenate([*runs, np.zeros(0, np.int64)])
    if len(lengths) < CHANGES:
        return None
    times, fps = int(np.median(lengths)), sample.source.fps
    share = float((lengths == times).mean())
    if times < 2 or share < REPEATED:
        return None
    return Finding(
        check="frame rate",
        verdict="fails",
        found=f"{fps:g} Hz by header, but states change every {times} frames only "
        f"({share:.0%} of runs): {fps / times:.4g} Hz",
        expected="times that say what the header says, one new frame each",
        mend=f"keep every {times}th frame, at its own time",
        numbers={"header_hz": fps, "repeated": times, "share": share},
        **sample.size,
    )

"""Any data set -> LeRobot v3.0, by many processes on many machines, whatever is killed.

Each episode is staged on its own (see ``writer``), so it does not matter who does which, when, or
how often a run is begun again: the result depends on the source alone, byte for byte.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes, Subset
from saccade.data.files.faults import OnError, Skipped
from saccade.data.lerobot.writer import LEFT_OUT, PARTS, LeRobotWriter
from saccade.data.passes.shards import Shard, locked, parallel
from saccade.data.passes.words import counted
from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError
from saccade.progress import progress

BLOCK = 32  # frames decoded at once: bounds the memory
LISTED = 8  # names shown of a long list


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What to keep of a data set, and how.

    Args:
        cameras: which; empty takes those that every episode has.
        pixels: ``exact`` copies JPEG and PNG pictures as they are and stores anything else as
            lossless video, so that every pixel is the same; ``small`` is H.264 at a constant rate
            factor of 10 in which every frame is a keyframe.
        size: side of the square that is kept of each frame, antialiased; 0 keeps frames whole.
        edge: as in ``Framing``: what the shortest edge is resized to before the square is cut.
    """

    cameras: tuple[str, ...] = ()
    pixels: Literal["exact", "small"] = "exact"
    size: int = 0
    edge: int = 0

    def __call__(self, video: UInt8[Tensor, "t 3 h w"]) -> UInt8[Tensor, "t 3 _ _"]:
        """Resize frames."""
        return Framing(size=self.size, edge=self.edge)(video) if self.size else video


class Plan(NamedTuple):
    """What a conversion will write. ``cameras`` maps names in the new data set to the source's."""

    episodes: list[int]  # those that have frames, of some camera if any episode has one
    blind: int  # episodes left out since they have frames of no camera
    cameras: dict[str, str]
    absent: dict[str, int]  # cameras left out, and how many episodes lack each
    sizes: dict[str, tuple[int, int]]
    pictures: tuple[str, ...]
    timed: bool

    def told(self, episodes: Episodes, out: Path) -> list[str]:
        """Say what will be written, and what is left out."""
        frames = sum(episodes.lengths[i] for i in self.episodes)
        lines = [f"{counted(len(self.episodes), 'episode')}, {counted(frames, 'frame')} -> {out}"]
        for name, camera in self.cameras.items():
            height, width = self.sizes[name]
            how = "pictures as stored" if name in self.pictures else "video"
            called = f" (there {camera!r})" if name != camera else ""
            lines.append(f"  camera {name}{called}: {height} x {width}, {how}")
        for camera, missing in self.absent.items():
            lines.append(f"  left out: camera {camera}, lacking in {counted(missing, 'episode')}")
        empty = len(episodes.lengths) - len(self.episodes) - self.blind
        for number, what in ((empty, "without frames"), (self.blind, "without a camera")):
            lines += [f"  left out: {counted(number, 'episode')} {what}"] if number else []
        return lines


class Outcome(NamedTuple):
    """What there is after a run. ``done`` is of the whole conversion, not of one shard."""

    done: int
    total: int
    left_out: dict[int, str]
    finished: bool


def make_plan(episodes: Episodes, conversion: Conversion) -> Plan:
    """Decide from the data set what will be written, without reading more than an episode.

    Raises:
        DataError: no episode has frames or can be read, or no camera is in every episode.
    """
    filled = [i for i, length in enumerate(episodes.lengths) if length]
    kept = [i for i in filled if episodes.cameras_of(i)] or filled
    lacking = {
        camera: sum(camera not in episodes.cameras_of(i) for i in kept)
        for camera in episodes.cameras
    }
    unknown = sorted(set(conversion.cameras) - lacking.keys())
    if unknown:
        raise DataError(f"the data set has no cameras {unknown}; it has {sorted(lacking)}")
    chosen = conversion.cameras or tuple(c for c, missing in lacking.items() if not missing)
    if lacking and not chosen:
        raise DataError(
            f"no camera is in every one of {len(kept)} episodes ({lacking} lack them); choose some "
            "with --cameras, and leave the episodes without them out with --on-error skip"
        )
    cameras = {re.sub(r"[^\w-]", "_", camera): camera for camera in chosen}
    if len(cameras) < len(chosen):
        raise ConfigError(f"cameras {chosen} would share a name; choose fewer with --cameras")
    sizes, pictures = _probe(episodes, kept, cameras, conversion)
    return Plan(
        episodes=kept,
        cameras=cameras,
        blind=len(filled) - len(kept),
        absent={camera: n for camera, n in lacking.items() if n and camera not in chosen},
        sizes=sizes,
        pictures=pictures,
        timed=times_are_recorded(episodes),
    )


def times_are_recorded(episodes: Episodes) -> bool:
    """Whether a reader knows when frames were exposed, or only counts them."""
    while isinstance(episodes, Subset):
        episodes = episodes.episodes
    return type(episodes).timestamps is not Episodes.timestamps


def convert(
    source: Config[Episodes],
    out: Path,
    conversion: Conversion,
    *,
    jobs: int = 1,
    shard: Shard | None = None,
    merge: bool = False,
    on_error: OnError = "raise",
    most_skipped: float = 0.01,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Convert a data set, or one shard of it, or merge what the shards left; go on after a stop.

    Without ``shard`` and ``merge`` all is done. A shard only stages, ``merge`` only finishes; to
    merge again does nothing.

    Raises:
        ConfigError: the folder holds something else, was begun from another source, or lies in
            the source.
        BusyError: another process does the same work.
        DataError: an episode is broken, or with ``on_error="skip"`` too many; a shard is missing.
        SpaceError: the disk is full.
    """
    check_apart(source, out)
    episodes = source.build()
    plan = make_plan(episodes, conversion)
    made_from = _made_from(source, episodes, conversion, plan)
    if _finished(out, made_from):
        info = json.loads((out / "meta" / "info.json").read_text())
        return Outcome(info["total_episodes"], len(plan.episodes), _listed(out), True)
    for line in plan.told(episodes, out):
        say(line)
    staging = out / ".staging"
    with ExitStack() as stack:
        stack.enter_context(locked(staging / "lock", shared=shard is not None))
        if shard is not None:
            stack.enter_context(locked(staging / f"shard-{shard}.lock"))
        writer = _writer(out, episodes, conversion, plan, made_from)
        total = len(plan.episodes)
        if not merge:
            mine = (shard or Shard()).of(plan.episodes)
            skipped = Skipped(on_error, most_skipped)
            _stage_all(writer, episodes, conversion, plan, mine, jobs, skipped, say)
        if shard is not None:
            return Outcome(len(writer.staged()), total, writer.left_out(), False)
        _check_complete(writer, plan, on_error, most_skipped)
        if source.build().fingerprint != episodes.fingerprint:
            raise DataError(f"the source of {out} changed while it was converted; convert again")
        left_out = writer.left_out()
        done = len(writer.staged())
        writer.finish()
    return Outcome(done, total, left_out, True)


def check_apart(source: Config[Episodes], out: Path) -> None:
    """See that nothing would be written into the data set that is read.

    Raises:
        ConfigError: ``out`` lies in it.
    """
    root = str(getattr(source, "root", "://"))
    if "://" not in root and out.resolve().is_relative_to(Path(root).resolve()):
        raise ConfigError(f"{out} lies in the data set {root} itself; choose another folder")


def _probe(
    episodes: Episodes, kept: list[int], cameras: Mapping[str, str], conversion: Conversion
) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    """Look at the first readable episode: sizes of its frames, and which are stored pictures."""
    error = DataError("no episode has frames; give a data set that has some")
    first = np.array([0])
    for i in kept:
        try:
            sizes, pictures = {}, []
            for name, camera in cameras.items():
                frame = next(_frames(episodes, i, camera, conversion))
                sizes[name] = (frame.shape[0], frame.shape[1])
                as_is = conversion.pixels == "exact" and not conversion.size
                if as_is and episodes.encoded(i, camera, first) is not None:
                    pictures.append(name)
            return sizes, tuple(pictures)
        except DataError as found:
            error = found
    raise error


def _made_from(
    source: Config[Episodes], episodes: Episodes, conversion: Conversion, plan: Plan
) -> dict[str, Any]:
    return {
        "format": getattr(type(source), "format", type(source).__name__),
        "fingerprint": episodes.fingerprint,
        "cameras": plan.cameras,
        "pixels": conversion.pixels,
        "size": conversion.size,
        "edge": conversion.edge,
        "empty_episodes": len(episodes.lengths) - len(plan.episodes) - plan.blind,
        "episodes_without_camera": plan.blind,
    }


def _finished(out: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether this very conversion is complete; tidy up what a kill may have left then."""
    path = out / "meta" / "info.json"
    if not path.is_file():
        if not (out / ".staging").is_dir() and any((out / name).exists() for name in PARTS):
            raise ConfigError(f"{out} holds something else; choose another folder")
        return False
    try:
        found = json.loads(path.read_text())["saccade"]["made_from"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != made_from:
        raise ConfigError(
            f"{out} holds another data set, made from {found}, not {dict(made_from)}; choose "
            "another folder"
        )
    for name in (".building", ".staging"):
        shutil.rmtree(out / name, ignore_errors=True)
    return True


def _listed(out: Path) -> dict[int, str]:
    path = out / LEFT_OUT
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {int(number): reason for number, reason in found.items()}


def _writer(
    out: Path,
    episodes: Episodes,
    conversion: Conversion,
    plan: Plan,
    made_from: Mapping[str, Any],
) -> LeRobotWriter:
    known = episodes.world_to_camera
    rotations = {
        name: {"world_to_camera": known[camera].tolist()}
        for name, camera in plan.cameras.items()
        if camera in known
    }
    return LeRobotWriter(
        out,
        fps=episodes.fps,
        robot="unknown",
        state_names=episodes.state_names,
        action_names=episodes.action_names,
        cameras=plan.sizes,
        extra={"cameras": rotations} if rotations else {},
        pictures=plan.pictures,
        exact=conversion.pixels == "exact",
        timed=plan.timed,
        mixed=not conversion.size,
        made_from=made_from,
    )


def _stage_all(
    writer: LeRobotWriter,
    episodes: Episodes,
    conversion: Conversion,
    plan: Plan,
    mine: list[int],
    jobs: int,
    skipped: Skipped,
    say: Callable[[str], None],
) -> None:
    """Stage what is not yet, stopping as soon as more is broken than may be."""
    staged = writer.staged()
    missing = [i for i in mine if i not in staged]
    if len(missing) < len(mine):
        say(f"resuming: {len(mine) - len(missing)} of {counted(len(mine), 'episode')} done")
    lengths = episodes.lengths
    total, done = sum(lengths[i] for i in mine), sum(lengths[i] for i in mine if i in staged)
    work = partial(_stage, writer, episodes, conversion, plan)
    with progress(f"converting to {writer.root}", total, "frames") as told:
        told(done)
        for i, found in parallel(work, missing, jobs):
            if isinstance(found, DataError):
                skipped.add(f"episode {i}", found)
                writer.leave_out(i, str(found))
                skipped.settle(len(plan.episodes), "episodes")
            done += lengths[i]
            told(done)


def _stage(
    writer: LeRobotWriter, episodes: Episodes, conversion: Conversion, plan: Plan, i: int
) -> None:
    """Stage one episode, unless someone did meanwhile."""
    if writer.folder(i).is_dir():
        return
    absent = sorted(set(plan.cameras.values()) - set(episodes.cameras_of(i)))
    if absent:
        raise DataError(f"episode {i} has no cameras {absent}; leave it out, or choose others")
    steps = np.arange(episodes.lengths[i])
    numbers = episodes.read(i, steps, ())
    pictures = {}
    for name in plan.pictures:
        stored = episodes.encoded(i, plan.cameras[name], steps)
        if stored is None:
            raise DataError(
                f"episode {i} has no stored pictures of {name}, as others have; use --pixels small"
            )
        pictures[name] = stored
    writer.write_episode(
        i,
        {name: _frames(episodes, i, c, conversion) for name, c in plan.cameras.items()},
        numbers["state"].numpy(),
        numbers["action"].numpy(),
        episodes.tasks[i],
        pictures=pictures,
        times=episodes.timestamps(i) if plan.timed else None,
        about=episodes.about(i),
    )


def _frames(
    episodes: Episodes, i: int, camera: str, conversion: Conversion
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Read the frames of one camera, a block at a time."""
    for start in range(0, episodes.lengths[i], BLOCK):
        block = np.arange(start, min(start + BLOCK, episodes.lengths[i]))
        video = episodes.read(i, block, (camera,))["video"][:, 0]
        yield from conversion(video).permute(0, 2, 3, 1).numpy()


def _check_complete(
    writer: LeRobotWriter, plan: Plan, on_error: OnError, most_skipped: float
) -> None:
    """See that every episode is staged, or left out with leave.

    Raises:
        DataError: it says which are missing, and of which shards.
    """
    staged, left_out = writer.staged(), writer.left_out()
    missing = [i for i in plan.episodes if i not in staged and i not in left_out]
    if missing:
        names = (path.name for path in (writer.root / ".staging").glob("shard-*.lock"))
        counts = {int(name.split("-")[3].removesuffix(".lock")) for name in names}
        shards = [Shard(i, max(counts)) for i in range(max(counts))] if counts else []
        late = [f"{s.index}/{s.count}" for s in shards if set(s.of(plan.episodes)) & set(missing)]
        which = f"shards {', '.join(late[:LISTED])}" if late else f"episodes {missing[:LISTED]}"
        raise DataError(
            f"{writer.root} lacks {len(missing)} of {len(plan.episodes)} episodes; run {which} "
            f"first{' and others' if max(len(late), 0 if late else len(missing)) > LISTED else ''}"
        )
    skipped = Skipped(on_error, most_skipped if on_error == "skip" else 0.0)
    skipped.found = {f"episode {i}": reason for i, reason in left_out.items()}
    skipped.settle(len(plan.episodes), "episodes")

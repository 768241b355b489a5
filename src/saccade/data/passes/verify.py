"""Read everything that a data set has, and list what is broken and where."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int64

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.passes.shards import Shard, parallel
from saccade.errors import DataError
from saccade.progress import progress

BLOCK = 64  # frames decoded at once: bounds the memory
Fault = dict[str, Any]  # episode (-1: of the data set), camera ("": numbers), frames, error


def verify(source: Config[Episodes], jobs: int = 1, shard: Shard | None = None) -> dict[str, Any]:
    """Read every record, frame and number; go on past whatever is broken.

    What a reader can leave out as broken when it opens the data set is listed too (with a shard:
    by the first one). Returns JSON values: what was read, and ``faults``.
    """
    try:
        episodes = tolerant(source).build()
    except DataError as error:
        return _report(source, 0, 0, [make_fault(-1, _first_fault(source, error))])
    mine = (shard or Shard()).of(range(len(episodes.lengths)))
    faults = []
    if shard is None or shard.index == 0:
        skipped = episodes.skipped
        faults += [make_fault(-1, f"{name}: {reason}") for name, reason in skipped.items()]
    total, done = sum(episodes.lengths[i] for i in mine), 0
    found: dict[int, list[Fault]] = {}
    with progress(f"verifying {getattr(source, 'root', '')}", total, "frames") as told:
        told(0)
        for i, result in parallel(partial(check_episode, episodes), mine, jobs):
            found[i] = [make_fault(i, str(result))] if isinstance(result, DataError) else result
            done += episodes.lengths[i]
            told(done)
    faults += [fault for i in sorted(found) for fault in found[i]]
    return _report(source, len(mine), total, faults, episodes)


def merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the reports of all shards together.

    A fault of the data set that every shard met is listed once.

    Raises:
        DataError: they are not of one data set.
    """
    known = {part["fingerprint"] for part in parts}
    if len(known) > 1:
        raise DataError(
            f"the shards verified different data sets ({sorted(known)}); run them again"
        )
    whole = {key: sum(part[key] for part in parts) for key in ("episodes", "frames")}
    faults = {json.dumps(fault): fault for part in parts for fault in part["faults"]}
    ordered = sorted(faults.values(), key=lambda fault: (fault["episode"], fault["camera"]))
    return {**parts[0], **whole, "faults": ordered}


def tolerant(source: Config[Episodes], most: float = 1.0) -> Config[Episodes]:
    """Return the reader's config that leaves out what is broken, where it can."""
    fields = {field.name for field in dataclasses.fields(source)}
    changes = {"on_error": "skip", "most_skipped": most}
    return dataclasses.replace(source, **{k: v for k, v in changes.items() if k in fields})


def check_episode(episodes: Episodes, episode: int) -> list[Fault]:
    """Read an episode whole: numbers, times, what is said of it, and every frame."""
    frames = np.arange(episodes.lengths[episode])
    faults = [
        fault
        for check in (_numbers, _times, _about)
        if (fault := _failed(partial(check, episodes, episode), episode))
    ]
    for camera in episodes.cameras_of(episode):
        bad, error = [], ""
        for start in range(0, len(frames), BLOCK):
            block = frames[start : start + BLOCK]
            if _failed(partial(_pixels, episodes, episode, camera, block), episode):
                for frame in block:  # which of them?
                    one = frame[None]
                    fault = _failed(partial(_pixels, episodes, episode, camera, one), episode)
                    if fault:
                        bad.append(int(frame))
                        error = error or fault["error"]
        if bad:
            faults.append(make_fault(episode, error, camera, bad))
    return faults


def _first_fault(source: Config[Episodes], error: DataError) -> str:
    """Say what is broken, where so much is that nothing is left."""
    try:
        source.build()
    except DataError as first:
        return str(first)
    return str(error)


def _failed(check: Callable[[], object], episode: int) -> Fault | None:
    try:
        check()
    except DataError as error:
        return make_fault(episode, str(error))
    return None


def _numbers(episodes: Episodes, episode: int) -> None:
    length = episodes.lengths[episode]
    found = episodes.read(episode, np.arange(length), ())
    for name in ("state", "action"):
        rows = found[name].numpy()
        if len(rows) != length:
            raise DataError(f"the {name} has {len(rows)} rows, expected {length}")
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise DataError(f"the {name} is not finite in {len(bad)} frames, first in {bad[0]}")


def _times(episodes: Episodes, episode: int) -> None:
    times = episodes.timestamps(episode)
    if len(times) != episodes.lengths[episode]:
        raise DataError(f"{len(times)} times are recorded for {episodes.lengths[episode]} frames")
    late = np.flatnonzero(~(np.diff(times) > 0))
    if len(late):
        raise DataError(f"time does not go on from frame {late[0]} to the next")


def _about(episodes: Episodes, episode: int) -> None:
    episodes.about(episode)


def _pixels(episodes: Episodes, episode: int, camera: str, frames: Int64[np.ndarray, " t"]) -> None:
    video = episodes.read(episode, frames, (camera,))["video"]
    if len(video) != len(frames):
        raise DataError(f"{len(video)} frames came for {len(frames)} that were asked for")


def make_fault(episode: int, error: str, camera: str = "", frames: Sequence[int] = ()) -> Fault:
    """Describe a fault as JSON values."""
    return {"episode": episode, "camera": camera, "frames": list(frames), "error": error}


def _report(
    source: Config[Episodes],
    count: int,
    frames: int,
    faults: list[Fault],
    episodes: Episodes | None = None,
) -> dict[str, Any]:
    return {
        "root": str(getattr(source, "root", "")),
        "format": getattr(type(source), "format", ""),
        "fingerprint": episodes.fingerprint if episodes else "",
        "cameras": list(episodes.cameras) if episodes else [],
        "episodes": count,
        "frames": frames,
        "faults": faults,
    }

"""``saccade data cache``."""

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.commands.data.convert import run
from saccade.commands.data.source import Faults, Source, Work
from saccade.data.cache.reader import CachedEpisodes
from saccade.data.episodes import Episodes, Subset
from saccade.data.files.index import cache_folder
from saccade.data.passes.convert import Conversion
from saccade.data.passes.words import counted
from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Command(Source, Faults, Work):
    """Decode a data set once, at training size, so that training need not.

    A store of frames is what `saccade train --data` looks for by itself: it maps them into
    memory. With --clips, a LeRobot data set of small videos in which every frame is a keyframe is
    written instead: a tenth of the size, and it can be moved. Both go on after a stop.

    Example: saccade data cache data/droid --size 256 --camera wrist

    To share between machines: saccade data cache data/droid --size 256 --clips data/droid-256

    Args:
        size: side of the square that is kept of each frame, in pixels.
        edge: resize the shortest edge to this before the square is cut out (V-JEPA: 292 for 256);
            0 cuts the largest square.
        camera: only these cameras; without it, all (--clips: those that every episode has).
        folder: where the store is; without it, $SACCADE_CACHE or ~/.cache/saccade.
        clips: folder of a LeRobot data set to write instead of a store.
    """

    size: int = 256
    edge: int = 0
    camera: tuple[str, ...] = ()
    folder: str = ""
    clips: Path | None = None


def main(args: list[str]) -> int:
    """Decode."""
    command = tyro.cli(Command, args=args, prog="saccade data cache")
    if not 16 <= command.size <= 4096:
        raise ConfigError(f"size is {command.size}, expected 16 to 4096 pixels")
    if command.edge and not command.size <= command.edge <= 2 * 4096:
        raise ConfigError(f"edge is {command.edge}, expected 0 or {command.size} to 8192 pixels")
    source = command.passed_on(command.config())
    if command.clips is not None:
        conversion = Conversion(
            cameras=command.camera, pixels="small", size=command.size, edge=command.edge
        )
        return run(source, command.clips, conversion, command, command)
    if command.shard or command.merge:
        raise ConfigError("a store of frames is built on one machine; --shard needs --clips")
    episodes = source.build()
    unknown = sorted(set(command.camera) - set(episodes.cameras))
    if unknown:
        raise DataError(f"{command.uri} has no cameras {unknown}; it has {episodes.cameras}")
    for camera in command.camera or episodes.cameras:
        store(episodes, camera, command)
    return 0


def store(episodes: Episodes, camera: str, command: Command) -> None:
    """Build the store of one camera, as training would, and say how large and how fast."""
    seen = [i for i, n in enumerate(episodes.lengths) if n and camera in episodes.cameras_of(i)]
    if len(seen) < len(episodes.lengths):
        print(
            f"frames of {camera}: in {len(seen):,} of {counted(len(episodes.lengths), 'episode')}"
        )
        episodes = Subset(episodes, seen)
    total, begun, folder = sum(episodes.lengths), time.monotonic(), cache_folder(command.folder)
    cached = CachedEpisodes(
        episodes,
        folder,
        Framing(size=command.size, edge=command.edge),
        (camera,),
        workers=command.processes(),
        on_error=command.on_error,
        most_skipped=command.most_skipped,
    )
    seconds = time.monotonic() - begun
    for name, reason in cached.skipped.items():
        print(f"skipped {name}: {reason}")
    print(
        f"{camera}: {counted(total, 'frame')} of {command.size} x {command.size}, "
        f"{cached.size_on_disk / 1e9:.3f} GB in {cached.folders[camera]}, "
        f"{total / seconds:,.0f} frames/s"
    )

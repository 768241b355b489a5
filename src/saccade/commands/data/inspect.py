"""``saccade data inspect``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import tyro
from rich.table import Table

from saccade.commands.data.source import Source, check_place, name_of, wide_console
from saccade.data.episodes import Episodes
from saccade.data.files.index import cache_folder
from saccade.data.passes.statistics import Numbers
from saccade.data.passes.survey import Survey, oddities, survey
from saccade.data.passes.words import counted
from saccade.errors import ConfigError
from saccade.report.pictures import save_strip

SHOWN = ("min", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class Command(Source):
    """Say what is in a data set: sizes, rates, ranges, tasks, oddities, a picture strip per camera.

    Example: saccade data inspect data/droid_100 --out droid

    Args:
        out: folder of the picture strips; without it, one in the cache folder.
        all: look at every episode, not at some that are evenly spread.
        sample: episodes to look at for ranges, rates and pictures.
        tasks: instructions to list, the most frequent first.
    """

    out: Path | None = None
    all: bool = False
    sample: int = 200
    tasks: int = 10


def main(args: list[str]) -> int:
    """Inspect."""
    command = tyro.cli(Command, args=args, prog="saccade data inspect")
    for option, value, least in (("sample", command.sample, 1), ("tasks", command.tasks, 0)):
        if value < least:
            raise ConfigError(f"{option} is {value}, expected {least} or more")
    folder = command.out or cache_folder() / "inspect" / name_of(command.uri)
    check_place(folder / "camera.png")
    config = command.config()
    episodes = config.build()
    found = survey(episodes, 0 if command.all else command.sample)
    console = wide_console()
    print(f"{command.uri}: {getattr(type(config), 'format', '')}")
    tell_sizes(episodes, found)
    tell_cameras(episodes, found)
    looked = f"{len(found.looked_at):,} of {counted(len(episodes.lengths), 'episode')}"
    for kind, names, numbers in (
        ("state", episodes.state_names, found.state),
        ("action", episodes.action_names, found.action),
    ):
        console.print(ranges(f"{kind} ({looked})", names, numbers))
    console.print(tasks(episodes, command.tasks))
    for line in oddities(episodes, found):
        print(f"odd: {line}")
    for camera, view in found.views.items():
        if view.strip is not None:
            path = folder / f"{quote(camera, safe='')}.png"  # cameras may have a / in their names
            save_strip(view.strip.float() / 255, path)
            print(f"picture: {path} (episode {view.strip_of})")
    return 0


def tell_sizes(episodes: Episodes, found: Survey) -> None:
    """Print how much there is, at which rate, and how it ended."""
    frames, lengths = sum(episodes.lengths), episodes.lengths
    seconds = frames * found.interval if found.interval > 0 else frames / episodes.fps
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    print(
        f"{counted(len(lengths), 'episode')} of {shortest} to {longest} frames, "
        f"{counted(frames, 'frame')}, {seconds / 3600:.2f} hours"
    )
    recorded = "no times are recorded"
    if found.interval > 0:
        worst = f"worst jitter {found.jitter * 1000:.1f} ms"
        recorded = f"{1 / found.interval:.4g} Hz by timestamps (median; {worst})"
    print(f"rate: {episodes.fps:g} Hz by header, {recorded}")
    if set(found.outcomes) - {"unknown"}:
        told = (f"{count:,} {outcome}" for outcome, count in found.outcomes.most_common())
        print(f"outcomes: {', '.join(told)}")
    if found.scenes:
        print(f"scenes: {len(found.scenes):,}")
    print(f"camera orientation known: {', '.join(episodes.world_to_camera) or 'of none'}")
    print(f"fingerprint: {episodes.fingerprint}")


def tell_cameras(episodes: Episodes, found: Survey) -> None:
    """Print the sizes of each camera and how many episodes lack it."""
    for camera, view in found.views.items():
        sizes = ", ".join(f"{height} x {width}" for height, width in view.sizes) or "never seen"
        lacking = f", lacking in {counted(view.lacking, 'episode')}" if view.lacking else ""
        print(f"camera {camera}: {sizes}{lacking}")
    if not found.views:
        print("cameras: none")


def ranges(title: str, names: Sequence[str], numbers: Numbers) -> Table | str:
    """Make a table of the range of each dimension."""
    if not numbers.count or not names:
        return f"{title}: none"
    table, found = Table(title, *SHOWN, box=None, header_style="bold"), numbers.describe()
    for i, name in enumerate(names):
        table.add_row(name, *(f"{found[column][i]:.5g}" for column in SHOWN))
    return table


def tasks(episodes: Episodes, most: int) -> Table:
    """Make a table of the most frequent instructions."""
    counts, frames = Counter(episodes.tasks), Counter[str]()
    for task, length in zip(episodes.tasks, episodes.lengths, strict=True):
        frames[task] += length
    title = f"task ({len(counts):,} different)"
    table = Table(title, "episodes", "frames", box=None, header_style="bold")
    for task, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]:
        table.add_row(task or "(none)", f"{count:,}", f"{frames[task]:,}")
    return table

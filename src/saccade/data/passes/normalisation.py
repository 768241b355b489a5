"""What states and actions of a data set look like: the numbers that policies are normalised by.

Only tables are read, no pixels. The values do not depend on the number of processes or shards.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from saccade.data.episodes import Episodes, state_groups
from saccade.data.files.faults import OnError, Skipped
from saccade.data.lerobot.tables import ACTION, STATE
from saccade.data.passes.shards import Shard, parallel
from saccade.data.passes.statistics import Numbers, to_lists
from saccade.errors import DataError
from saccade.progress import progress

BATCH = 2**17  # frames that one process counts before it reports


class Counted(NamedTuple):
    """Statistics on their way, of some episodes of a data set."""

    fingerprint: str
    names: dict[str, list[str]]  # of the dimensions, by feature
    episodes: int
    numbers: dict[str, Numbers]
    skipped: dict[str, str]

    def __add__(self, other: "Counted") -> "Counted":  # type: ignore[override]
        if (self.fingerprint, self.names) != (other.fingerprint, other.names):
            raise DataError(
                f"shards are of different data sets ({self.fingerprint}, {other.fingerprint}); "
                "run all of them again"
            )
        numbers = {name: value + other.numbers[name] for name, value in self.numbers.items()}
        skipped = self.skipped | other.skipped
        episodes = self.episodes + other.episodes
        return Counted(self.fingerprint, self.names, episodes, numbers, skipped)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, without loss."""
        numbers = {name: value.to_json() for name, value in self.numbers.items()}
        return {**self._asdict(), "numbers": numbers}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Counted":
        """Invert ``to_json``."""
        numbers = {name: Numbers.from_json(one) for name, one in value["numbers"].items()}
        return Counted(**{**value, "numbers": numbers})


def count_numbers(
    episodes: Episodes,
    shard: Shard | None = None,
    jobs: int = 1,
    on_error: OnError = "raise",
    most_skipped: float = 0.01,
) -> Counted:
    """Count the states and actions of every episode that falls to the shard.

    Raises:
        DataError: an episode cannot be read, or with ``on_error="skip"`` too many of them.
    """
    members = (shard or Shard()).of([i for i, length in enumerate(episodes.lengths) if length])
    batches, filled = [[]], 0
    for i in members:
        if filled >= BATCH:
            batches.append([])
            filled = 0
        batches[-1].append(i)
        filled += episodes.lengths[i]
    whole, done = _nothing(episodes), 0
    skipped = Skipped(on_error, most_skipped)
    work = partial(_count, episodes, batches, on_error)

    def name(number: int) -> str:
        return f"episodes {batches[number][0]} to {batches[number][-1]}"

    with progress("reading states and actions", len(members), "episodes") as told:
        told(0)
        for number, found in parallel(work, range(len(batches)), jobs, name):
            if isinstance(found, DataError):
                raise found
            whole += found
            skipped.found |= found.skipped
            skipped.settle(len(episodes.lengths), "episodes")
            done += len(batches[number])
            told(done)
    return whole


def describe_all(counted: Counted) -> dict[str, Any]:
    """Return JSON values: features in LeRobot's form, and under ``saccade`` what they are of.

    Raises:
        DataError: there is no frame, or neither states nor actions.
    """
    if not counted.numbers:
        raise DataError("the data set has neither states nor actions; there is nothing to describe")
    found: dict[str, Any] = {}
    for name, value in counted.numbers.items():
        names = counted.names[name]
        about = {"names": names, "groups": state_groups(names)}
        found[name] = to_lists(value.describe()) | about
    numbers = counted.numbers.values()
    found["saccade"] = {
        "fingerprint": counted.fingerprint,
        "episodes": counted.episodes,
        "frames": next(iter(numbers)).count,
        "quantile_error": max(value.quantile_error for value in numbers),
        "skipped": dict(sorted(counted.skipped.items())),
    }
    return found


def _nothing(episodes: Episodes) -> Counted:
    names = {STATE: list(episodes.state_names), ACTION: list(episodes.action_names)}
    names = {feature: dimensions for feature, dimensions in names.items() if dimensions}
    numbers = {feature: Numbers(len(dimensions)) for feature, dimensions in names.items()}
    return Counted(episodes.fingerprint, names, 0, numbers, {})


def _count(
    episodes: Episodes, batches: Sequence[Sequence[int]], on_error: OnError, number: int
) -> Counted:
    found, skipped, done = _nothing(episodes), Skipped(on_error), 0
    for i in batches[number]:
        with skipped.guard(f"episode {i}"):
            rows = episodes.read(i, np.arange(episodes.lengths[i]), ())
            for feature, name in ((STATE, "state"), (ACTION, "action")):
                if feature in found.numbers:
                    found.numbers[feature].update(rows[name].numpy())
            done += 1
    return found._replace(episodes=done, skipped=skipped.found)

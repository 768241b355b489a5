"""What the data can answer, and work that stops when it must."""

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.episodes import Subset
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import DataError
from saccade.evals.features import EncoderReader, readings
from saccade.evals.probe import ALL, Representation
from saccade.evals.probes.base import Data, ProbeConfig
from saccade.experiments import asking
from saccade.experiments.asking import askable, encode
from tests.evals.readable import Patches

CONFIG = ProbeConfig(probes=ALL, gaps=(1, 3), resamples=20)
PARTS = {"train": range(6), "select": range(6, 8), "test": range(8, 10)}


def data(states: bool = True, **settings: Any) -> Data:
    """Deal ten episodes of the toy world."""
    world = SyntheticConfig(**({"episodes": 10, "length": 8, "image_size": 16} | settings)).build()
    if not states:
        world.state_names = world.action_names = ()
        world.numbers = lambda e, t: (np.zeros((len(t), 0), np.float32),) * 2  # type: ignore[method-assign]
    return Data({name: Subset(world, keep) for name, keep in PARTS.items()}, "front")


def test_what_can_be_answered_is_asked() -> None:
    asked = askable(data(), CONFIG, ALL)
    assert asked.config == CONFIG
    assert asked.left_out == ()
    assert asked.prepared.keys() == {"action", "flow", "order", "clusters"}


def test_without_states_motion_is_left_out() -> None:
    asked = askable(data(states=False), CONFIG, ALL)
    assert asked.config.probes == ("flow", "order", "clusters", "robustness")
    assert asked.prepared.keys() == {"flow", "order", "clusters"}
    assert asked.left_out == (
        "Left out action, factors, curves: the data set has no states, so motion cannot be asked "
        "about.",
        "Left out clusters by behaviour: the test part has fewer than two of them, or a single "
        "episode.",
    )
    with pytest.raises(DataError, match="no states"):
        askable(data(states=False), CONFIG, ("action", "curves"))
    with pytest.raises(DataError, match="no states"):
        askable(data(states=False), CONFIG)


def test_one_task_without_motion_makes_no_clusters() -> None:
    still = data(states=False, tasks=1)
    asked = askable(still, CONFIG, ALL)
    assert "clusters" not in asked.config.probes
    assert asked.prepared.keys() == {"flow", "order"}
    assert asked.left_out[-1].startswith("Left out clusters by behaviour and task: the test part")
    with pytest.raises(DataError, match="clusters of tasks or behaviours cannot be asked about"):
        askable(still, replace(CONFIG, probes=("clusters",)))
    asked = askable(data(tasks=1), CONFIG, ALL)
    assert [line.partition(":")[0] for line in asked.left_out] == ["Left out clusters by task"]
    assert "clusters" in asked.prepared


def test_gaps_are_left_out_that_a_part_cannot_span() -> None:
    asked = askable(data(), replace(CONFIG, gaps=(1, 7, 8, 30)), ALL)
    assert asked.config.gaps == (1, 7)
    assert asked.left_out == (
        "Left out the gaps 8, 30: the longest episode of the part 'train' has 8 frames.",
    )
    with pytest.raises(DataError, match="longer than the gap of 8 steps"):
        askable(data(), replace(CONFIG, gaps=(1, 8)))
    with pytest.raises(DataError, match="longer than the gap of 30 steps"):
        askable(data(), replace(CONFIG, gaps=(30,)), ALL)


def test_a_leak_is_no_reason_to_leave_a_probe_out() -> None:
    dealt = data()
    dealt = Data({**dealt.parts, "test": dealt.parts["train"]}, "front")
    with pytest.raises(DataError, match="split by episode"):
        askable(dealt, CONFIG, ALL)


def test_results_come_in_the_order_of_the_items() -> None:
    first_waits = threading.Event()

    def work(item: int, check: Any) -> int:
        check()
        first_waits.wait(5) if item == 0 else first_waits.set()
        return item * item

    assert asking._in_threads(work, [0, 1, 2, 3], jobs=2) == [0, 1, 4, 9]


@pytest.mark.parametrize("error", [DataError("no room"), KeyboardInterrupt()])
def test_one_failure_ends_all_threads(error: BaseException) -> None:
    begun, ended, turns = threading.Event(), [], []

    def work(item: int, check: Any) -> None:
        if item == 1:
            assert begun.wait(5)
            raise error
        begun.set()
        for turn in range(100_000):  # for ever, as far as a user is concerned
            turns.append(turn)
            try:
                check()
            except RuntimeError:
                ended.append(item)
                raise
            threading.Event().wait(0.001)

    with pytest.raises(type(error)):
        asking._in_threads(work, [0, 1, 2], jobs=2)
    assert ended == [0], "the third item never began"
    assert len(turns) < 10_000


def test_long_encoding_is_told_of_and_kept_features_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dealt = data()
    prepared = askable(dealt, CONFIG, ALL).prepared
    encoders = [Patches(), Patches(seed=1), Patches(2)]
    groups = [
        [
            Representation(
                name=f"{number} ({reading})",
                kind="method",
                readers={0: EncoderReader(encoder, reading, dealt.parts, "front", tmp_path)},
            )
            for reading in readings(encoder)
        ]
        for number, encoder in enumerate(encoders)
    ]
    requests = [request for each in prepared.values() for request in each.requests()]
    readers = [reader for group in groups for each in group for reader in each.readers.values()]
    assert all(isinstance(reader, EncoderReader) for reader in readers)
    counts = [reader.missing(requests) for reader in readers if isinstance(reader, EncoderReader)]
    told: list[str] = []
    monkeypatch.setattr(asking, "PATIENCE", 0.0)
    monkeypatch.setattr(asking, "LONG", 0.0)
    encode(groups, prepared, told.append)
    (sentence,) = told
    clips = counts[0] + counts[2] + counts[4]  # both readings of an encoder share their clips
    assert re.match(rf"encoding {clips:,} clips takes about \d+ s, .* --probe.most", sentence)
    encoded = [reader.encoded for reader in readers if isinstance(reader, EncoderReader)]
    assert encoded == [counts[0], 0, counts[2], 0, counts[4]]
    encode(groups, prepared, told.append)
    assert told == [sentence]
    monkeypatch.undo()
    for path in tmp_path.rglob("rows.bin"):
        path.unlink()
    encode(groups, prepared, told.append)
    assert told == [sentence], "seconds are not worth a sentence"
    assert sum(r.encoded for r in readers if isinstance(r, EncoderReader)) == 2 * sum(encoded)

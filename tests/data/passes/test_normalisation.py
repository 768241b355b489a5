"""Statistics are numpy's, from tables alone, for any number of processes and shards."""

import json
from dataclasses import replace

import numpy as np
import pytest

from saccade.data.passes import normalisation
from saccade.data.passes.normalisation import Counted, count_numbers, describe_all
from saccade.data.passes.shards import Shard
from saccade.errors import DataError
from tests.fixtures.toy import ToyConfig

TOY = ToyConfig(lengths=tuple(range(12)))


def test_they_are_those_of_all_rows_at_once() -> None:
    pictures_break = tuple((i, "front", 0) for i in range(12))  # pixels are not touched
    found = describe_all(count_numbers(replace(TOY, broken=pictures_break).build()))
    episodes = TOY.build()
    rows = [episodes.read(i, np.arange(n), ())["action"].numpy() for i, n in enumerate(TOY.lengths)]
    action = np.concatenate(rows).astype(np.float64)
    for name, value in {
        "mean": action.mean(0),
        "std": action.std(0),
        "min": action.min(0),
        "max": action.max(0),
        "q01": np.quantile(action, 0.01, 0),
        "q99": np.quantile(action, 0.99, 0),
    }.items():
        np.testing.assert_allclose(found["action"][name], value, rtol=1e-12, err_msg=name)
    assert found["action"]["count"] == [66]
    assert found["action"]["names"] == ["x", "y", "gripper"]
    assert found["observation.state"]["groups"] == {"position": [0, 1], "gripper": [2]}
    assert found["saccade"]["episodes"] == 11
    assert found["saccade"]["quantile_error"] == 0


def test_batches_processes_and_shards_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = TOY.build()
    whole = describe_all(count_numbers(episodes))
    parts = [count_numbers(episodes, Shard(i, 5)).to_json() for i in (3, 0, 4, 1, 2)]
    loaded = [Counted.from_json(json.loads(json.dumps(part))) for part in parts]
    assert describe_all(sum(loaded[1:], loaded[0])) == whole
    monkeypatch.setattr(normalisation, "BATCH", 10)
    assert describe_all(count_numbers(episodes, jobs=2)) == whole
    with pytest.raises(DataError, match="different data sets"):
        _ = loaded[0] + count_numbers(replace(TOY, seed=1).build())


def test_broken_episodes_end_it_or_are_listed() -> None:
    broken = replace(TOY, broken=((5, "", 1),)).build()
    with pytest.raises(DataError, match="frame 1 is broken"):
        count_numbers(broken)
    with pytest.raises(DataError, match="more than the 1"):
        count_numbers(broken, on_error="skip")
    found = describe_all(count_numbers(broken, on_error="skip", most_skipped=0.1))
    assert list(found["saccade"]["skipped"]) == ["episode 5"]
    assert found["saccade"]["frames"] == 61


def test_nothing_to_describe_is_said() -> None:
    with pytest.raises(DataError, match="no frames"):
        describe_all(count_numbers(replace(TOY, lengths=(0,)).build()))

"""Every item once, in whatever process; a process that dies is named, not waited for."""

import json
import os
import signal
from itertools import chain
from pathlib import Path

import pytest

from saccade.data.passes.shards import Shard, load_parts, locked, parallel, save_part
from saccade.errors import BusyError, ConfigError, DataError, SpaceError


def work(item: int) -> int:
    """Fail in a way that the item decides."""
    if item == 3:
        raise DataError("three is broken")
    if item == 77:
        raise SpaceError("no room")
    if item == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 55:
        raise KeyError("a mistake of ours")
    return item**2


@pytest.mark.parametrize("count", [1, 3, 12])
def test_shards_hold_each_item_once(count: int) -> None:
    items = list(range(10))
    parts = [Shard(index, count).of(items) for index in range(count)]
    assert sorted(chain(*parts)) == items
    assert Shard.parse("2/3") == Shard(2, 3)
    assert Shard(1, 3).of(items) == [1, 4, 7]


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "1/0", "a/b", "1/2/3", "\u0661/\u0662", ""])
def test_a_malformed_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="i from 0 to n - 1"):
        Shard.parse(text)


@pytest.mark.parametrize("jobs", [1, 2])
def test_work_is_done_or_its_error_returned(jobs: int) -> None:
    found = dict(parallel(work, range(6), jobs))
    assert str(found.pop(3)) == "three is broken"
    assert found == {0: 0, 1: 1, 2: 4, 4: 16, 5: 25}
    assert dict(parallel(work, [], jobs)) == {}


@pytest.mark.parametrize("jobs", [1, 2])
def test_other_errors_end_it(jobs: int) -> None:
    with pytest.raises(SpaceError, match="no room"):
        list(parallel(work, [1, 77, 2], jobs))


def test_a_process_that_dies_is_named() -> None:
    with pytest.raises(DataError, match=r"worked on episode 99 ended with exit code -9"):
        list(parallel(work, [99, 1, 2], 2))
    with pytest.raises(DataError, match=r"worked on episode 55 ended with exit code 1"):
        list(parallel(work, [55, 1, 2], 2))


def test_parts_are_loaded_when_all_are_there(tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    with pytest.raises(DataError, match="holds no shards"):
        load_parts(out)
    save_part(out, Shard(2, 3), {"of": 2})
    save_part(out, Shard(0, 3), {"of": 0})
    with pytest.raises(DataError, match="lacks the shards 1/3; run these first"):
        load_parts(out)
    save_part(out, Shard(1, 3), {"of": 1})
    for _ in range(2):
        assert load_parts(out) == [{"of": 0}, {"of": 1}, {"of": 2}]
    path = save_part(out, Shard(0, 2), {})
    with pytest.raises(DataError, match=r"divisions into \[2, 3\], expected one; delete"):
        load_parts(out)
    path.unlink()
    (tmp_path / "stats.json.parts" / "1-of-3.json").write_text(json.dumps({"of": 1})[:3])
    with pytest.raises(DataError, match="is damaged"):
        load_parts(out)


def test_a_lock_is_held_by_one_or_shared(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "lock"), pytest.raises(BusyError), locked(tmp_path / "a" / "lock"):
        pass
    with locked(tmp_path / "b", shared=True), locked(tmp_path / "b", shared=True):
        pass

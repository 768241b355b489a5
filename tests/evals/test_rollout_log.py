import resource
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError, SpaceError
from saccade.evals.rollout_log import RolloutLog, read_log
from saccade.evals.rollouts import Key


def record(state: int, crashed: str | None = None, who: str = "policy") -> dict[str, Any]:
    key = Key("toy", "near", state, 0)
    outcome = {} if crashed else {"success": True}
    return {"who": who, **key._asdict(), **outcome, "crashed": crashed}


def write(path: Path, *records: dict[str, Any]) -> None:
    with RolloutLog(path) as log:
        for one in records:
            log.append(one)


def states(path: Path) -> list[int]:
    return [key.initial_state for _, key in read_log(path)]


def test_what_was_written_is_read_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rollouts.jsonl"
    assert read_log(path) == {}
    write(path, record(0), record(1))
    write(path, record(1, who="random"))
    found = read_log(path)
    assert list(found) == [
        ("policy", Key("toy", "near", 0, 0)),
        ("policy", Key("toy", "near", 1, 0)),
        ("random", Key("toy", "near", 1, 0)),
    ]
    assert found["policy", Key("toy", "near", 0, 0)] == record(0)


def test_a_kill_at_any_byte_loses_one_rollout_at_most(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write(path, record(0), record(1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in (*range(0, len(whole), 9), first - 1, first, first + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert states(path) == [0] * (length >= first)
        write(path, record(7))
        assert states(path) == [0] * (length >= first) + [7]


def test_other_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write(path, record(0), record(1), record(2))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:9] + "\n" + lines[2])
    with pytest.raises(DataError, match="line 2 is damaged"):
        read_log(path)
    path.write_text(lines[0] + '{"who": "policy"}\n')
    with pytest.raises(DataError, match=r"line 2 is damaged.*KeyError"):
        read_log(path)
    path.write_text(lines[0].replace("true", "1"))
    with pytest.raises(DataError, match=r"line 1 is damaged.*success is 1"):
        read_log(path)
    path.write_text(lines[0] + lines[1] + lines[0])
    with pytest.raises(DataError, match="line 3 repeats near, initial state 0"):
        read_log(path)


def test_a_full_disk_is_said_and_loses_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write(path, record(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = pytest.raises(SpaceError, match=r"rollouts\.jsonl: .*free some space, then --resume")
    try:
        with full, RolloutLog(path) as log:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, limits[1]))
            log.append(record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert states(path) == [0]
    write(path, record(1))
    assert states(path) == [0, 1]


def test_a_result_replaces_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write(path, record(0, crashed="hung"), record(1), record(0))
    found = read_log(path)
    assert len(found) == 2
    assert found["policy", Key("toy", "near", 0, 0)]["crashed"] is None

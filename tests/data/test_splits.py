"""Whole episodes, tasks or scenes are dealt; a saved split fits its data set and no other."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from saccade.data.episodes import Episodes
from saccade.data.splits import Level, deal, load_split, save_split
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import ConfigError, DataError
from tests.fixtures.toy import ToyConfig

SHARES = {"train": 0.6, "test": 0.4}


def many(count: int = 30) -> Episodes:
    return ToyConfig(lengths=tuple(i % 5 for i in range(count))).build()


@pytest.mark.parametrize("by", ["episode", "task", "scene"])
def test_every_episode_with_frames_has_one_part(by: Level) -> None:
    episodes = many()
    episodes.tasks = [f"task {i % 6}" for i in range(30)]
    parts = deal(episodes, by, SHARES, seed=3)
    assert parts == deal(episodes, by, SHARES, seed=3)
    assert sorted(chain(*parts.values())) == [i for i in range(30) if i % 5]
    groups = {
        name: {episodes.tasks[i] if by == "task" else i % 2 for i in members}
        for name, members in parts.items()
    }
    if by != "episode":
        assert not groups["train"] & groups["test"]
        assert any(deal(episodes, by, SHARES, seed)["train"] != parts["train"] for seed in range(9))


def test_shares_are_kept_as_far_as_groups_allow() -> None:
    episodes = SyntheticConfig(episodes=100, length=2, tasks=50).build()
    parts = deal(episodes, "task", {"a": 8.0, "b": 1.0, "c": 1.0})
    assert [len(members) for members in parts.values()] == [80, 10, 10]
    few = SyntheticConfig(episodes=9, length=2, tasks=3).build()
    parts = deal(few, "task", {"a": 98.0, "b": 1.0, "c": 1.0})
    assert [len(members) for members in parts.values()] == [3, 3, 3]  # nobody goes without


def test_what_cannot_be_split_is_said() -> None:
    episodes = SyntheticConfig(episodes=9, length=2, tasks=3).build()
    with pytest.raises(DataError, match="does not say its scene"):
        deal(episodes, "scene", SHARES)
    with pytest.raises(DataError, match="3 tasks, too few for 4 parts"):
        deal(episodes, "task", dict.fromkeys("abcd", 1.0))
    with pytest.raises(ConfigError, match="expected positive numbers"):
        deal(episodes, "task", {"a": 1.0, "b": 0.0})


def test_a_saved_split_fits_its_data_set_alone(tmp_path: Path) -> None:
    episodes, path = many(), tmp_path / "split.json"
    parts = deal(episodes, "episode", SHARES)
    save_split(path, episodes, "episode", SHARES, 0, parts)
    loaded = load_split(path, episodes)
    assert {name: part.keep for name, part in loaded.items()} == parts
    assert loaded["test"].lengths == [episodes.lengths[i] for i in parts["test"]]
    other = replace(ToyConfig(lengths=tuple(episodes.lengths)), seed=1).build()
    with pytest.raises(DataError, match="split again"):
        load_split(path, other)
    for damage in ('{"parts": {}}', "[1]", "{", ""):
        path.write_text(damage)
        with pytest.raises(DataError, match="is no split"):
            load_split(path, episodes)
    for members in ([1, 1], [-1], [30], ["a"]):
        path.write_text(json.dumps({"fingerprint": episodes.fingerprint, "parts": {"a": members}}))
        with pytest.raises(DataError, match="names episodes twice or that there are not"):
            load_split(path, episodes)
    with pytest.raises(DataError, match="is no split"):
        load_split(tmp_path / "none", episodes)

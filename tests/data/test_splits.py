"""Whole episodes, tasks or scenes are dealt; a saved split fits its data set and no other."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from saccade.data.episodes import Episodes, split
from saccade.data.splits import Level, deal, hold_out, load_split, save_split
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.errors import ConfigError, DataError
from tests.fixtures.toy import ToyConfig

SHARES = {"train": 0.6, "test": 0.4}
ROOMS = ("kitchen 1", "kitchen 2", "attic", "")


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


class Rooms(Synthetic):
    """A toy world whose episodes were recorded in four places, one of them without a name."""

    def about(self, episode: int) -> dict[str, Any]:
        place = ROOMS[episode // 3 % len(ROOMS)]
        return {"scene": place} if place else {}


def rooms() -> Rooms:
    return Rooms(SyntheticConfig(episodes=36, tasks=3, length=4))


def scenes_of(part: Episodes) -> set[str]:
    return {part.about(i).get("scene", "") for i in range(len(part.lengths))}


def test_held_out_scenes_are_seen_by_no_other_part() -> None:
    data, scenes = rooms(), ("attic", "kitchen 2")
    parts = hold_out(data, SHARES, scenes=scenes)
    assert list(parts) == [*SHARES, "unseen scenes"]
    assert scenes_of(parts["unseen scenes"]) == set(scenes)
    assert len(parts["unseen scenes"].lengths) == 18
    for name in SHARES:
        assert scenes_of(parts[name]) == {"kitchen 1"}, "what names no scene may be of one of them"
        assert len(set(parts[name].tasks)) == 3
    dealt = [i for part in parts.values() for i in part.keep]
    assert sorted(dealt) == [i for i in range(36) if i // 3 % 4 != 3]


def test_an_episode_of_a_held_out_task_stays_with_the_unseen_tasks() -> None:
    data, task = rooms(), "follow command 1"
    parts = hold_out(data, SHARES, (task,), ("attic",))
    assert parts["unseen"].keep == [i for i in range(36) if data.tasks[i] == task]
    assert scenes_of(parts["unseen"]) == set(ROOMS)
    assert set(parts["unseen scenes"].tasks) == {"follow command 0", "follow command 2"}
    members = [set(part.keep) for part in parts.values()]
    assert len(set.union(*members)) == sum(map(len, members)) == 36 - 6


def test_without_held_out_scenes_episodes_are_dealt_as_ever() -> None:
    data, tasks = rooms(), ("follow command 1",)
    for held in ((), tasks):
        for seed in (0, 5):
            found, known = hold_out(data, SHARES, held, (), seed), split(data, SHARES, held, seed)
            assert {name: part.fingerprint for name, part in found.items()} == {
                name: part.fingerprint for name, part in known.items()
            }


def test_scenes_that_cannot_be_held_out_are_refused() -> None:
    with pytest.raises(DataError) as refused:
        hold_out(rooms(), SHARES, scenes=("kitchen_1", "attic"))
    assert str(refused.value) == (
        "held-out scenes ['kitchen_1'] are not in the data; of its 3 the nearest are "
        "['kitchen 1', 'kitchen 2']"
    )
    with pytest.raises(DataError, match=r"of its 3 the nearest are \['attic', 'kitchen 1'"):
        hold_out(rooms(), SHARES, scenes=("????",))
    with pytest.raises(DataError, match=r"no episode names its scene, so \['attic'\] cannot"):
        hold_out(SyntheticConfig(episodes=9).build(), SHARES, scenes=("attic",))
    tasks = tuple(f"follow command {i}" for i in (0, 1))
    data = rooms()
    data.tasks = [tasks[0] if i // 3 % 4 == 2 else tasks[1] for i in range(36)]
    with pytest.raises(DataError, match=r"scenes \['attic'\] are of held-out tasks"):
        hold_out(data, SHARES, tasks[:1], ("attic",))
    with pytest.raises(DataError, match="0 episodes are too few for the parts"):
        hold_out(data, SHARES, scenes=ROOMS[:3])


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

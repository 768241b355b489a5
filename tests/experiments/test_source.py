import json
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.episodes import Subset
from saccade.data.files.index import cache_folder
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.synthetic_reach import Reach, ReachConfig
from saccade.errors import ConfigError, DataError
from saccade.evals.leaks import check_parts
from saccade.experiments.source import Parts, SourceConfig, recorded_size

WORLD = SyntheticConfig(episodes=15, length=4, tasks=3)
FIRST, LAST = "follow command 0", "follow command 2"


def opened(**settings: Any) -> Parts:
    return SourceConfig(episodes=WORLD, **settings).open(16)


def members(parts: Parts) -> dict[str, list[int]]:
    subsets = (parts.train, parts.select, parts.test, parts.unseen)
    return {
        name: [] if subset is None else subset.keep
        for name, subset in zip(("train", "select", "test", "unseen"), subsets, strict=True)
    }


def test_every_episode_is_in_one_part_and_whole() -> None:
    parts = opened()
    held = members(parts)
    assert sorted(chain(*held.values())) == list(range(15))
    assert [len(held[name]) for name in ("train", "select", "test", "unseen")] == [9, 3, 3, 0]
    assert parts.unseen is None
    assert parts.named().keys() == {"train", "select", "test"}
    for part in parts.named().values():
        assert set(part.lengths) == {4}
        assert set(part.tasks) == set(WORLD.build().tasks)  # every part sees every task


def test_held_out_tasks_are_only_in_unseen() -> None:
    parts = opened(held_out_tasks=(FIRST, LAST))
    assert parts.unseen is not None
    assert set(parts.unseen.tasks) == {FIRST, LAST}
    assert len(parts.unseen.lengths) == 10
    assert {*parts.train.tasks, *parts.select.tasks, *parts.test.tasks} == {"follow command 1"}
    assert sorted(chain(*members(parts).values())) == list(range(15))
    with pytest.raises(DataError, match=r"'fly'.*not in the data"):
        opened(held_out_tasks=("fly",))


class Rooms(Synthetic):
    """A toy world in which each task has a room of its own, and shares another; one is unnamed."""

    def about(self, episode: int) -> dict[str, Any]:
        own = f"room of {episode % 3}"
        return {"scene": "hall" if episode < 9 else own} if episode != 14 else {}


@dataclass(frozen=True, kw_only=True)
class RoomsConfig(SyntheticConfig):
    def build(self) -> Rooms:
        return Rooms(self)


ROOMS = SourceConfig(episodes=RoomsConfig(episodes=18, length=4, tasks=3))


def test_held_out_scenes_are_a_part_that_is_only_reported() -> None:
    told: list[str] = []
    parts = replace(ROOMS, held_out_scenes=("room of 1", "room of 0")).open(16, told.append)
    assert list(parts.named()) == ["train", "select", "test", "unseen scenes"]
    assert parts.unseen_scenes is not None
    assert parts.unseen_scenes.keep == [9, 10, 12, 13, 15, 16]
    assert parts.held_out() == {
        "held_out_tasks": [], "held_out_scenes": ["room of 0", "room of 1"], "new_tasks": [],
    }  # fmt: skip
    assert told[-1] == (
        "1 of 18 episodes name no scene and may be of a held-out one: they are in no part"
    )
    check_parts(parts.named(), parts.camera)
    shared = {**parts.named(), "unseen scenes": Subset(parts.whole, [9, parts.train.keep[0]])}
    with pytest.raises(DataError, match="in 'train' and in 'unseen scenes'"):
        check_parts(shared, parts.camera)


def test_unseen_scenes_of_tasks_that_were_never_trained_on_are_told() -> None:
    told: list[str] = []
    parts = replace(ROOMS, held_out_scenes=("hall", "room of 1")).open(16, told.append)
    assert parts.held_out()["new_tasks"] == ["follow command 1"]
    assert told[-1] == (
        "1 of 3 tasks of the unseen scenes were never trained on: what is lost there may be lost "
        "to the task"
    )
    told.clear()
    parts = replace(ROOMS, held_out_tasks=(FIRST,), held_out_scenes=("hall",)).open(16, told.append)
    assert list(parts.named())[3:] == ["unseen", "unseen scenes"]
    assert parts.unseen is not None
    assert len(parts.unseen.lengths) == 6
    assert parts.held_out() == {
        "held_out_tasks": [FIRST], "held_out_scenes": ["hall"], "new_tasks": [],
    }  # fmt: skip


def test_a_scene_that_nobody_recorded_in_is_refused() -> None:
    with pytest.raises(DataError, match=r"\['room of 7'\] are not in the data.*'room of 0'"):
        replace(ROOMS, held_out_scenes=("room of 7",)).open(16)
    with pytest.raises(DataError, match="no episode names its scene"):
        opened(held_out_scenes=("hall",))


def test_what_was_saved_before_scenes_could_be_held_out_is_still_read() -> None:
    source = SourceConfig(episodes=WORLD, held_out_tasks=(FIRST,), shares=(0.5, 0.3, 0.2))
    saved = to_dict(source)
    assert saved.pop("held_out_scenes") == []
    assert from_dict(json.loads(json.dumps(saved))) == source
    held = replace(source, held_out_scenes=("hall",))
    assert from_dict(json.loads(json.dumps(to_dict(held)))) == held != source


def test_the_seed_decides_the_split() -> None:
    assert members(opened()) == members(opened())
    assert members(opened()) != members(opened(split_seed=1))


def test_frames_have_the_asked_size_and_the_camera_its_name() -> None:
    parts = opened(camera="front")
    assert parts.camera == "front"
    video = parts.train.read(0, np.arange(2))["video"]
    assert video.shape == (2, 1, 3, 16, 16)
    assert video.dtype == torch.uint8


def test_an_unknown_camera_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no camera 'wrist'.*\['front'\]"):
        opened(camera="wrist")


def test_the_cache_lies_where_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "named"))
    monkeypatch.setattr("saccade.progress.PATIENCE", 0.0)
    source = SourceConfig(episodes=WORLD)
    source.open(16)
    assert list((tmp_path / "named").rglob("frames.u8"))
    assert "60 of 60 frames (100 %)" in capsys.readouterr().err
    source.open(16)
    assert capsys.readouterr().err == "", "the second time nothing is decoded"
    opened(cache=str(tmp_path / "given"))
    assert list((tmp_path / "given").rglob("frames.u8"))
    monkeypatch.delenv("SACCADE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "saccade"


class Patchy(Synthetic):
    """A toy world in which an episode is empty and another lacks the camera."""

    def __init__(self, config: SyntheticConfig) -> None:
        super().__init__(config)
        self.lengths[3] = 0

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        return () if episode == 7 else self.cameras


@dataclass(frozen=True, kw_only=True)
class PatchyConfig(SyntheticConfig):
    def build(self) -> Patchy:
        return Patchy(self)


def test_episodes_without_frames_of_the_camera_are_left_out_and_counted() -> None:
    told: list[str] = []
    parts = SourceConfig(episodes=PatchyConfig(episodes=9, length=4)).open(16, told.append)
    assert told[0] == "7 of 9 episodes have frames of 'front'"
    assert parts.whole.lengths == [4] * 7
    assert sum(len(part.lengths) for part in parts.named().values()) == 7


def test_decoding_always_gives_the_same_frames_and_keeps_none(tmp_path: Path) -> None:
    once = opened(cache=str(tmp_path / "once"))
    always = opened(cache=str(tmp_path / "always"), decode="always")
    assert members(once) == members(always)
    for part in ("train", "select", "test"):
        frames = [parts.named()[part].read(1, np.array([3, 0])) for parts in (once, always)]
        assert all(torch.equal(frames[0][key], frames[1][key]) for key in ("video", "state"))
    assert not (tmp_path / "always").exists()


class Torn(Synthetic):
    """A toy world in which one episode cannot be decoded."""

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> torch.Tensor:
        if episode == 4:
            raise DataError("film torn")
        return super().pixels(episode, camera, frames)


@dataclass(frozen=True, kw_only=True)
class TornConfig(SyntheticConfig):
    def build(self) -> Torn:
        return Torn(self)


def test_a_broken_episode_ends_it_or_is_left_out_and_named() -> None:
    world = TornConfig(episodes=9, length=4)
    with pytest.raises(DataError, match="film torn"):
        SourceConfig(episodes=world).open(16)
    with pytest.raises(DataError, match=r"1 of 9 episodes are broken, more than the 1\.00%"):
        SourceConfig(episodes=world, on_error="skip").open(16)
    told: list[str] = []
    source = SourceConfig(episodes=world, on_error="skip", most_skipped=0.2)
    parts = source.open(16, told.append)
    assert "skipped episode 4, camera front: film torn" in told
    assert "8 of 9 episodes have frames of 'front'" in told
    assert sum(len(part.lengths) for part in parts.named().values()) == 8


def test_shares_are_kept_and_a_policy_needs_no_test_part() -> None:
    world = ReachConfig(episodes=20, length=3)
    parts = SourceConfig(episodes=world, shares=(0.9, 0.1, 0.0)).open(16)
    assert [len(members(parts)[name]) for name in ("train", "select", "test")] == [18, 2, 0]
    assert not set(parts.train.keep) & set(parts.select.keep)
    assert set(parts.select.tasks) == set(world.build().tasks)
    assert parts.named().keys() == {"train", "select"}
    assert parts.test.lengths == []
    for shares in ((1.0, 0.0, 0.0), (0.5, 0.5, -0.1), (0.0, 0.5, 0.5)):
        with pytest.raises(ConfigError, match="train and select need more than 0"):
            SourceConfig(episodes=world, shares=shares).open(16)


@pytest.mark.parametrize("decode", ["once", "always"])
def test_several_cameras_keep_their_order(decode: Any, tmp_path: Path) -> None:
    world = ReachConfig(episodes=5, length=3)
    asked = ("wrist", "agentview")
    parts = SourceConfig(episodes=world, cameras=asked, decode=decode, cache=str(tmp_path)).open(32)
    assert (parts.cameras, parts.camera) == (asked, "wrist")
    where = parts.train.keep[1]
    seen = parts.train.read(1, np.array([2, 0]), parts.cameras)["video"]
    assert torch.equal(seen, world.build().read(where, np.array([2, 0]), asked)["video"])
    assert recorded_size(parts.train, asked) == (32, 32)


def test_cameras_must_be_there_and_be_named_once() -> None:
    world = ReachConfig(episodes=5, length=3)
    for cameras, told in ((("wrist", "top"), "no camera 'top'"), (("wrist",) * 2, "'wrist' twice")):
        with pytest.raises(ConfigError, match=told):
            SourceConfig(episodes=world, cameras=cameras).open(16)
    with pytest.raises(ConfigError, match="give one of them"):
        SourceConfig(episodes=world, camera="wrist", cameras=("wrist",)).open(16)


class Uneven(Reach):
    """A toy world in which an episode lacks a camera, whose frames are flat besides."""

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        return self.cameras[:1] if episode == 0 else self.cameras

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> torch.Tensor:
        seen = super().pixels(episode, camera, frames)
        return seen[:, :, 4:20] if camera == "wrist" else seen


@dataclass(frozen=True, kw_only=True)
class UnevenConfig(ReachConfig):
    def build(self) -> Uneven:
        return Uneven(self)


def test_episodes_that_lack_one_of_the_cameras_are_left_out() -> None:
    told: list[str] = []
    source = SourceConfig(
        episodes=UnevenConfig(episodes=9, length=3), cameras=("agentview", "wrist")
    )
    parts = source.open(16, told.append)
    assert told[0] == "8 of 9 episodes have frames of 'agentview' and 'wrist'"
    assert len(parts.whole.lengths) == 8
    assert recorded_size(parts.select, ("wrist",)) == (16, 32)
    with pytest.raises(ConfigError, match=r"agentview 32 x 32, wrist 16 x 32"):
        recorded_size(parts.select, parts.cameras)

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saccade.data.episodes import Subset
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.errors import ConfigError, DataError
from saccade.evals.probe import prepare
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.source import SourceConfig
from saccade.experiments.views import SeenAs, Sizes, Transfer, sizes_of_parts, told_parts
from saccade.types import Preprocessing
from tests.train.toy import ToyEncoder

WORLD = SyntheticConfig(episodes=6, length=5, image_size=16, tasks=1)
SOURCE = SourceConfig(episodes=WORLD)
OTHER = SourceConfig(episodes=replace(WORLD, seed=1, episodes=2))
ROBUST = ProbeConfig(probes=("action", "robustness"))


def sizes(config: ProbeConfig = ROBUST, *others: Transfer, **settings: Any) -> Sizes:
    return Sizes(replace(SOURCE, **settings), config, others)


def test_perturbed_parts_are_there_only_where_they_are_asked_for() -> None:
    plain = sizes(ProbeConfig()).at(8)
    assert list(plain.views) == ["train", "select", "test"]
    worse = sizes().at(8)
    conditions = {name.partition(" | ")[2] for name in worse.views if " | " in name}
    assert conditions == {
        "noise 16", "JPEG 20", "lighting 0.6", "lighting 1.4", "camera shift 0.05",
    }  # fmt: skip
    assert sizes_of_parts(worse.views) == sizes_of_parts(plain.views)


def test_perturbed_pictures_belong_to_the_episodes_of_the_test_part() -> None:
    opened = sizes().at(8)
    clean, worse = opened.views["test"], opened.views["test | noise 16"]
    frames = np.arange(5)
    for episode in range(len(clean.lengths)):
        shown, seen = (part.read(episode, frames, ("front",)) for part in (worse, clean))
        assert torch.equal(shown["state"], seen["state"])
        change = shown["video"].double() - seen["video"].double()
        assert 12 < float(change.std()) < 17, "noise of 16, less where it is clipped"


def test_labels_of_perturbed_parts_are_those_of_the_clean_one() -> None:
    made = sizes()
    data = made.labels(8)
    assert data.parts["test | JPEG 20"] is made.at(8).views["test"]
    assert data.reported() == [name for name in data.parts if name not in ("train", "select")]


def test_unseen_scenes_are_labelled_reported_and_never_perturbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = {"scene": "hall"}, {"scene": "attic"}
    monkeypatch.setattr(Synthetic, "about", lambda _, episode: place[episode > 3])
    made = sizes(held_out_scenes=("attic",))
    views = made.at(8).views
    assert list(views)[:4] == ["train", "select", "test", "unseen scenes"]
    assert {name.partition(" | ")[0] for name in views if " | " in name} == {"test"}
    data = made.labels(8)
    assert data.parts["unseen scenes"] is views["unseen scenes"]
    assert "unseen scenes" in data.reported()
    assert sizes_of_parts(views)["unseen scenes"] == {"episodes": 2, "frames": 10}
    assert told_parts(views) == "episodes: train 2, select 1, test 1, unseen scenes 2"


@pytest.mark.parametrize("most", [False, True])
def test_what_repeats_an_earlier_part_is_left_out_unless_it_is_most_of_a_part(
    monkeypatch: pytest.MonkeyPatch, most: bool
) -> None:
    source = SourceConfig(episodes=replace(WORLD, episodes=10), decode="always")
    plain = source.open(8)
    gone = plain.test.keep[:1] if not most else plain.test.keep
    twins = dict(zip(gone, plain.train.keep, strict=False))  # they are as those are
    for name in ("numbers", "pixels"):
        true = getattr(Synthetic, name)
        monkeypatch.setattr(
            Synthetic, name, lambda self, i, *a, true=true: true(self, twins.get(i, i), *a)
        )
    made = Sizes(source, ROBUST)
    opened = made.at(16)
    if most:  # the check of parts refuses them
        assert (made.left_out, opened.parts.test.keep) == ((), plain.test.keep)
        with pytest.raises(DataError, match="with the same pictures, and so for 2 of 2 episodes"):
            prepare(made.labels(16), ProbeConfig(gaps=(1,)))
        return
    assert opened.views["test"].lengths == [5]
    assert opened.parts.test.keep == [*set(plain.test.keep) - set(gone)]
    assert opened.views["test | JPEG 20"].lengths == [5]
    (told,) = made.left_out
    assert told.startswith("Left out 1 of 2 episodes of the part 'test': their states")
    assert made.at(8).parts.test.keep == opened.parts.test.keep
    prepare(made.labels(16), ProbeConfig(gaps=(1,)))


def test_each_size_is_opened_once() -> None:
    made = sizes()
    assert made.at(8) is made.at(8)
    assert made.at(8).views["test"].read(0, np.arange(1))["video"].shape[-2:] == (8, 8)
    assert made.at(4).views["test"].read(0, np.arange(1))["video"].shape[-2:] == (4, 4)


def test_an_encoder_gets_the_size_that_it_takes_or_resizes_from() -> None:
    encoder = ToyEncoder()
    assert sizes().size_of(encoder) == ToyEncoder.preprocessing.image_size == 4
    encoder.edge = 12
    encoder.preprocessing = Preprocessing(num_frames=1, image_size=10)
    assert sizes().size_of(encoder) == 12, "what it resizes to, before it crops"
    encoder.edge = 256
    assert sizes().size_of(encoder) == 16, "no more than was recorded"


def test_another_data_set_goes_by_the_camera_of_the_first() -> None:
    away = Transfer(name="away", source=OTHER)
    opened = sizes(ProbeConfig(), away).at(8)
    there = opened.views["away"]
    assert (there.cameras, there.lengths) == (("front",), [5, 5])
    assert sizes_of_parts(opened.views)["away"] == {"episodes": 2, "frames": 10}


def test_a_camera_is_renamed_with_all_that_is_known_of_it() -> None:
    whole = WORLD.build()
    seen = SeenAs(whole, "front", "side")
    frames = np.arange(3)
    assert (seen.cameras, seen.cameras_of(0)) == (("side",), ("side",))
    expected = whole.read(1, frames, ("front",))
    found = seen.read(1, frames, ("side",))
    assert torch.equal(found["video"], expected["video"])
    assert torch.equal(found["state"], expected["state"])
    turns = seen.camera_rotations(1, "side", frames)
    there = whole.camera_rotations(1, "front", frames)
    assert turns is not None
    assert there is not None
    np.testing.assert_array_equal(turns, there)
    assert seen.fingerprint != whole.fingerprint
    with pytest.raises(DataError, match=r"no cameras \['front'\]"):
        seen.read(0, frames, ("front",))
    assert isinstance(seen, Subset)


def test_what_another_data_set_cannot_be() -> None:
    for name in ("test", "train", "unseen", "unseen scenes", "test | fog"):
        with pytest.raises(ConfigError, match="rename it"):
            sizes(ROBUST, Transfer(name=name, source=OTHER)).at(8)
    with pytest.raises(DataError, match="same is the data set itself"):
        sizes(ROBUST, Transfer(name="same", source=replace(SOURCE, split_seed=3))).at(8)
    once = Transfer(name="away", source=OTHER)
    with pytest.raises(ConfigError, match="cannot be called 'away'"):
        sizes(ROBUST, once, once).at(8)

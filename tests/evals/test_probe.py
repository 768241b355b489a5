import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.episodes import Episodes, Frames, Subset, split
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import DataError
from saccade.evals.features import EncoderFeatures, Pairs
from saccade.evals.probe import (
    COPY,
    ProbeConfig,
    Probed,
    Representation,
    baselines,
    check_parts,
    compare,
    label_frame,
    probe,
)
from saccade.types import Encoder
from tests.evals.oracle import Oracle, RandomInit, parts

PARTS = parts(episodes=36)
FAST = ProbeConfig(gaps=(4,), stride=2, resamples=200)
KEYS = {
    *("representation", "kind", "floor_of", "seeds", "readout", "gap", "split", "target", "frame"),
    *("group", "r2", "r2_low", "r2_high", "cosine", "cosine_low", "cosine_high", "within"),
    *("within_low", "within_high", "tolerance", "episodes", "windows", "dims", "penalty"),
}


def method(folder: Path, *encoders: Encoder, name: str = "oracle") -> Representation:
    runs = {i: EncoderFeatures(each, "front", folder) for i, each in enumerate(encoders)}
    return Representation(name=name, kind="method", runs=runs)


def row(probed: Probed, **wanted: object) -> dict:
    wanted = {"split": "test", "group": "position", "frame": "camera"} | wanted
    (found,) = [r for r in probed.rows if all(r[key] == value for key, value in wanted.items())]
    return found


def test_an_encoder_that_sees_the_square_scores_near_one_and_far_above_random(
    tmp_path: Path,
) -> None:
    fine = parts(episodes=24, image_size=160)  # the square's size tells z, in whole pixels
    seen = row(probe(method(tmp_path, Oracle(160)), fine, "front", FAST))
    blind = row(probe(method(tmp_path, RandomInit(size=160)), fine, "front", FAST))
    assert seen["r2_low"] > 0.9
    assert seen["cosine"] > 0.95
    assert blind["r2_high"] < seen["r2_low"]


def test_rows_have_the_keys_of_the_report_and_survive_json(tmp_path: Path) -> None:
    probed = probe(method(tmp_path, Oracle(), RandomInit()), PARTS, "front", FAST)
    assert len(probed.rows) == 2 * 2 * 2  # splits, frames, groups
    for each in probed.rows:
        assert set(each) == KEYS
    assert json.loads(json.dumps(probed.rows)) == probed.rows
    found = row(probed)
    assert (found["seeds"], found["episodes"], found["windows"]) == ([0, 1], 6, 36)
    assert (found["dims"], found["tolerance"]) == (2 * Oracle.embed_dim, 0.01)
    assert found["r2_low"] <= found["r2"] <= found["r2_high"]
    assert row(probed, group="gripper")["cosine"] is None  # one dimension has no direction


def test_shuffled_labels_are_not_read_at_all(tmp_path: Path) -> None:
    class Shuffled(Subset):
        """States of one episode beside the pixels of another."""

        def read(
            self, episode: int, frames: np.ndarray, cameras: Sequence[str] | None = None
        ) -> Frames:
            clip = super().read(episode, frames, cameras)
            clip["state"] = super().read((episode + 1) % len(self.keep), frames, ())["state"]
            return clip

    wrong = {name: Shuffled(part.episodes, part.keep) for name, part in PARTS.items()}
    assert row(probe(method(tmp_path, Oracle()), wrong, "front", FAST))["r2"] < 0.05


def test_copy_predicts_no_motion() -> None:
    found = row(probe(COPY, PARTS, "front", FAST))
    assert -0.2 < found["r2"] <= 0  # no better than the mean displacement, by definition
    assert (found["cosine"], found["penalty"], found["dims"]) == (0, None, 0)
    assert probe(COPY, PARTS, "front", ProbeConfig(gaps=(4,), target="action")).rows == []


def test_one_fixed_camera_gives_both_frames_the_same_linear_score() -> None:
    episodes = SyntheticConfig(episodes=24, tasks=3).build()
    episodes.world_to_camera = {"front": np.array([[0.0, -1, 0], [0.6, 0, 0.8], [-0.8, 0, 0.6]])}
    turned = split(episodes, {"train": 0.5, "select": 0.25, "test": 0.25})
    (change,) = [r for r in baselines(turned["train"], "front") if r.name == "raw pixel change"]
    probed = probe(change, turned, "front", FAST)
    camera, world = row(probed), row(probed, frame="world")
    assert camera["r2"] == pytest.approx(world["r2"])
    assert camera["within"] == world["within"]


def test_every_floor_and_readout_gives_rows(tmp_path: Path) -> None:
    config = ProbeConfig(gaps=(4,), stride=8, readouts=("linear", "mlp", "attentive"), resamples=50)
    for each in baselines(PARTS["train"], "front"):
        found = probe(each, PARTS, "front", config)
        expected = {"linear", "mlp"} | ({"attentive"} if each is COPY else set())
        assert {r["readout"] for r in found.rows} == expected, each.name
    found = probe(method(tmp_path, Oracle()), PARTS, "front", config)
    assert {r["readout"] for r in found.rows} == {"linear", "mlp", "attentive"}
    assert len(list(tmp_path.iterdir())) == 2 * len(PARTS)  # pooled and tokens, once per part


def test_without_held_out_tasks_there_is_no_unseen_row() -> None:
    probed = probe(COPY, parts(held_out=False), "front", FAST)
    assert {r["split"] for r in probed.rows} == {"test"}


def noise(episodes: Episodes, pairs: Pairs) -> torch.Tensor:
    rng = np.random.default_rng(len(pairs.start))
    return torch.from_numpy(rng.normal(size=(len(pairs.start), 60)))


def test_the_penalty_is_chosen_on_the_select_part() -> None:
    blind = Representation(name="noise", kind="floor", runs={0: noise})
    found = row(probe(blind, PARTS, "front", FAST))
    assert found["penalty"] > 0.1  # the training part would choose the smallest


def test_every_run_has_its_own_seed_for_the_readout() -> None:
    config = ProbeConfig(gaps=(4,), readouts=("mlp",), resamples=2)
    blind = Representation(name="noise", kind="method", runs={0: noise, 1: noise})
    for table in probe(blind, PARTS, "front", config).tables.values():
        assert not np.array_equal(table[0], table[1])


def test_seeds_are_averaged(tmp_path: Path) -> None:
    each = [row(probe(method(tmp_path, e), PARTS, "front", FAST)) for e in (Oracle(), RandomInit())]
    both = row(probe(method(tmp_path, Oracle(), RandomInit()), PARTS, "front", FAST))
    assert both["r2"] == pytest.approx((each[0]["r2"] + each[1]["r2"]) / 2)


def test_comparisons_are_paired_and_always_from_the_method_s_side(tmp_path: Path) -> None:
    random = Representation(
        name="random", kind="floor", runs=method(tmp_path, RandomInit()).runs, floor_of="oracle"
    )
    sources = [COPY, random, method(tmp_path, Oracle())]
    probed = [probe(source, PARTS, "front", FAST) for source in sources]
    found = compare(probed, FAST)
    assert {(pair["a"], pair["b"]) for pair in found} == {("oracle", "copy"), ("oracle", "random")}
    assert len(found) == 2 * 2 * 2  # others, splits, groups
    pair = next(
        p for p in found if (p["b"], p["split"], p["group"]) == ("random", "test", "position")
    )
    assert pair["difference"] == pytest.approx(row(probed[2])["r2"] - row(probed[1])["r2"])
    assert pair["low"] > 0
    assert pair["p"] < 0.05


def test_the_label_frame_is_the_camera_s_where_it_is_known() -> None:
    assert label_frame([{"frame": "world"}, {"frame": "camera"}]) == "camera"
    assert label_frame([{"frame": "world"}]) == "world"


def test_an_episode_in_two_parts_is_refused() -> None:
    leaky: dict[str, Episodes] = dict(PARTS)
    leaky["test"] = Subset(PARTS["test"], [0, 1])  # subsets of subsets are seen through
    check_parts(leaky)
    episode = PARTS["train"].keep[3]
    leaky["test"] = Subset(Subset(PARTS["train"], [2, 3]), [1])
    with pytest.raises(DataError, match=rf"episode {episode} of .* in 'train' and in 'test'"):
        check_parts(leaky)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(DataError, match=r"lacks the parts \['select'\]"):
        check_parts({name: part for name, part in PARTS.items() if name != "select"})

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.synthetic import SyntheticConfig
from saccade.errors import ConfigError, DataError, NumericError
from saccade.evals.features import (
    EncoderFeatures,
    enumerate_pairs,
    floors,
    raw_change,
    raw_pixels,
    read_video,
)
from tests.evals.oracle import Oracle, RandomInit, parts

EPISODES = SyntheticConfig(episodes=3, length=9).build()
PAIRS = enumerate_pairs(EPISODES, gap=4, stride=2)


def test_pairs_stay_inside_their_episode_and_keep_the_stride() -> None:
    assert PAIRS.start.tolist() == [0, 2, 4] * 3  # 4 + 4 is the last frame, 8
    assert PAIRS.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_gap_longer_than_every_episode_is_an_error() -> None:
    with pytest.raises(DataError, match=r"gap of 9 steps \(the longest has 9 frames\)"):
        enumerate_pairs(EPISODES, gap=9, stride=1)
    with pytest.raises(ConfigError, match="at least 1"):
        enumerate_pairs(EPISODES, gap=0, stride=1)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_video_holds_both_frames_of_each_pair_in_order(batch: int) -> None:
    video = torch.cat(list(read_video(EPISODES, PAIRS, "front", batch)))
    for i in (0, 4, 8):
        frames = PAIRS.start[i] + np.array([0, 4])
        expected = EPISODES.read(int(PAIRS.episode[i]), frames)["video"][:, 0]
        assert torch.equal(video[i], expected)


def test_features_are_the_pooled_tokens_whatever_the_batch(tmp_path: Path) -> None:
    encoder = RandomInit()
    video = torch.cat(list(read_video(EPISODES, PAIRS, "front", 64)))
    tokens = encoder(video).detach()
    one = EncoderFeatures(encoder, "front", tmp_path / "one", batch=1)
    many = EncoderFeatures(encoder, "front", tmp_path / "many")
    torch.testing.assert_close(many(EPISODES, PAIRS), encoder.pool(tokens))
    torch.testing.assert_close(one(EPISODES, PAIRS), many(EPISODES, PAIRS))
    whole = many.tokens(EPISODES, PAIRS)
    torch.testing.assert_close(whole, tokens.flatten(1, 2).half(), atol=1e-3, rtol=1e-3)
    assert not many(EPISODES, PAIRS).requires_grad


def test_the_encoder_is_read_once_and_left_as_it_was(tmp_path: Path) -> None:
    calls = []

    class Counting(RandomInit):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            calls.append(len(video))
            return super().forward(video)

    encoder = Counting()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = EncoderFeatures(encoder, "front", tmp_path)(EPISODES, PAIRS)
    done = len(calls)
    assert torch.equal(EncoderFeatures(Counting(), "front", tmp_path)(EPISODES, PAIRS), first)
    assert len(calls) == done
    assert all(p.grad is None for p in encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert not encoder.training


def test_other_weights_data_or_pairs_are_other_files(tmp_path: Path) -> None:
    other = SyntheticConfig(episodes=3, length=9, seed=1).build()
    EncoderFeatures(RandomInit(0), "front", tmp_path)(EPISODES, PAIRS)
    EncoderFeatures(RandomInit(1), "front", tmp_path)(EPISODES, PAIRS)
    EncoderFeatures(RandomInit(0), "front", tmp_path)(other, PAIRS)
    EncoderFeatures(RandomInit(0), "front", tmp_path)(EPISODES, PAIRS._replace(gap=3))
    EncoderFeatures(RandomInit(0), "front", tmp_path).tokens(EPISODES, PAIRS)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    features = EncoderFeatures(RandomInit(), "front", tmp_path)
    features(EPISODES, PAIRS)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=f"{path.name} is damaged"):
        features(EPISODES, PAIRS)


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cache the frames at size 64"):
        EncoderFeatures(Oracle(size=64), "front", tmp_path)(EPISODES, PAIRS)
    assert not list(tmp_path.iterdir())


def test_an_encoder_of_other_clips_is_refused(tmp_path: Path) -> None:
    encoder = Oracle()
    encoder.preprocessing = replace(encoder.preprocessing, num_frames=16)
    with pytest.raises(ConfigError, match="takes 16 frames"):
        EncoderFeatures(encoder, "front", tmp_path)


def test_features_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    encoder = RandomInit()
    encoder.map.weight.data.fill_(torch.nan)
    with pytest.raises(NumericError, match="9 of 9 pairs"):
        EncoderFeatures(encoder, "front", tmp_path)(EPISODES, PAIRS)


def test_an_encoder_that_changes_itself_is_caught(tmp_path: Path) -> None:
    class Drifting(RandomInit):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            self.map.bias.data += 1
            return super().forward(video)

    with pytest.raises(RuntimeError, match="changed itself"):
        EncoderFeatures(Drifting(), "front", tmp_path)(EPISODES, PAIRS)


def test_raw_floors_are_box_averages_and_their_difference() -> None:
    pixels, change = raw_pixels(EPISODES, PAIRS, "front"), raw_change(EPISODES, PAIRS, "front")
    assert pixels.shape == (9, 2 * 3 * 16 * 16)
    first = EPISODES.read(0, np.array([0]))["video"][0, 0].float() / 255
    assert pixels[0, 17].item() == pytest.approx(
        first[0, 2:4, 2:4].mean().item()
    )  # row 1, column 1
    before, after = pixels.unflatten(1, (2, -1)).unbind(1)
    torch.testing.assert_close(change, after - before)
    assert change.min() < 0 < change.max()


def test_floors_without_vision_know_the_state_or_the_task_only() -> None:
    split = parts()
    pairs = enumerate_pairs(split["unseen"], gap=4, stride=4)
    known = floors(split["train"], "front")
    assert list(known) == ["raw pixels", "raw pixel change", "position only", "task only"]
    state = split["unseen"].read(1, np.array([4]))["state"][0]
    assert torch.equal(known["position only"](split["unseen"], pairs)[4], state)
    assert known["task only"](split["unseen"], pairs).tolist() == [[0, 0]] * len(pairs.start)
    seen = known["task only"](split["test"], enumerate_pairs(split["test"], 4, 4))
    assert seen.sum(1).eq(1).all()
    assert seen.sum(0).gt(0).all()

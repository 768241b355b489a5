import pickle

import numpy as np
import pytest
import torch

from saccade.data.episodes import Subset
from saccade.data.perturbed import SUITE, Kind, Perturbed
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import ConfigError
from tests.evals.known import World

EPISODES = Subset(SyntheticConfig(episodes=4, length=6).build(), [3, 1])
FRAMES = np.array([0, 2, 5])
CLEAN = EPISODES.read(1, FRAMES)["video"]


def grey(level: int, side: int = 64) -> World:
    return World([np.zeros((2, 3))], videos=[torch.full((2, 3, side, side), level).byte()])


def seen(kind: Kind, strength: float) -> torch.Tensor:
    return Perturbed(EPISODES, kind, strength).read(1, FRAMES)["video"]


@pytest.mark.parametrize(("kind", "strength"), SUITE)
def test_pictures_change_the_same_way_each_time_and_nothing_else_does(
    kind: Kind, strength: float
) -> None:
    worse = Perturbed(EPISODES, kind, strength)
    one = worse.read(1, FRAMES)
    assert one["video"].shape == CLEAN.shape
    assert not torch.equal(one["video"], CLEAN)
    again = pickle.loads(pickle.dumps(worse)).read(1, FRAMES[::-1].copy())
    assert torch.equal(again["video"].flip(0), one["video"])  # whatever is read before
    clean = EPISODES.read(1, FRAMES)
    assert torch.equal(one["state"], clean["state"])
    assert torch.equal(one["action"], clean["action"])
    assert worse.tasks == EPISODES.tasks
    assert worse.fingerprint == f"{EPISODES.fingerprint}~{worse.name}"
    assert worse.encoded(1, "front", FRAMES) is None
    assert worse.features(1, FRAMES) is None


@pytest.mark.parametrize(
    ("kind", "strength"), [("noise", 0.0), ("lighting", 1.0), ("camera shift", 0.0)]
)
def test_no_strength_is_no_change(kind: Kind, strength: float) -> None:
    assert torch.equal(seen(kind, strength), CLEAN)


def test_noise_has_the_deviation_that_it_names_and_differs_from_frame_to_frame() -> None:
    video = Perturbed(grey(128), "noise", 16.0).read(0, np.arange(2))["video"].double()
    assert video.mean().item() == pytest.approx(128, abs=0.3)
    assert video.std().item() == pytest.approx(16, rel=0.02)
    one, other = video.flatten(1) - 128
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.05


def test_jpeg_errs_less_the_better_it_is() -> None:
    errors = [
        (seen("JPEG", q).double() - CLEAN.double()).abs().mean().item() for q in (100.0, 50.0, 5.0)
    ]
    assert errors[0] < 1  # rounding alone
    assert errors[0] < errors[1] < errors[2]


def test_lighting_scales_and_clips() -> None:
    darker = Perturbed(grey(100), "lighting", 0.6).read(0, np.arange(2))["video"]
    assert darker.unique().tolist() == [60]
    brighter = Perturbed(grey(200), "lighting", 1.4).read(0, np.arange(2))["video"]
    assert brighter.unique().tolist() == [255]


def test_a_shifted_camera_repeats_the_edge() -> None:
    shifted = seen("camera shift", 0.125)  # 4 of 32 pixels
    assert torch.equal(shifted[..., 4:, 4:], CLEAN[..., :-4, :-4])
    assert torch.equal(shifted[..., :4, 4:], CLEAN[..., :1, :-4].expand_as(shifted[..., :4, 4:]))
    assert torch.equal(seen("camera shift", 1.0), CLEAN[..., :1, :1].expand_as(CLEAN))


def test_the_camera_s_centre_moves_with_the_picture() -> None:
    world = grey(0)
    matrix = np.array([[50.0, 0, 32], [0, 50, 32], [0, 0, 1]])
    world.intrinsics = lambda episode, camera: matrix
    moved = Perturbed(world, "camera shift", 0.125).intrinsics(0, "front")
    assert moved is not None
    assert moved.tolist() == [[50, 0, 40], [0, 50, 40], [0, 0, 1]]
    assert Perturbed(world, "noise", 9.0).intrinsics(0, "front") is matrix


@pytest.mark.parametrize(
    ("kind", "strength"), [("noise", -1.0), ("JPEG", 101.0), ("camera shift", 2.0)]
)
def test_what_is_no_perturbation_is_refused(kind: Kind, strength: float) -> None:
    with pytest.raises(ConfigError, match="is no perturbation"):
        Perturbed(EPISODES, kind, strength)

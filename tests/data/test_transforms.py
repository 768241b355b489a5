import numpy as np
import pytest
import torch

from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.transforms import Augment, CentreCrop, crop, jitter, mirror
from saccade.data.windows import PairWindow
from saccade.errors import ConfigError
from saccade.types import Clip

DATA = SyntheticConfig(image_size=32, noise=0.0).build()


def sample(key: int = 0) -> Clip:
    return PairWindow(max_gap=4).read(DATA, np.array([0, 2, 4, key]))


def test_nothing_is_varied_by_default() -> None:
    assert torch.equal(Augment()(sample(), DATA, "front")["video"], sample()["video"])


def test_frames_of_a_pair_share_one_crop() -> None:
    picture = torch.randint(256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    clip = sample(key=5)
    clip["video"] = picture.repeat(2, 1, 1, 1, 1)
    cut = Augment(margin=12)(clip, DATA, "front")["video"]
    assert cut.shape[-2:] == (20, 20)
    assert torch.equal(cut[0], cut[1])


def test_crops_cover_the_frame_and_follow_the_key() -> None:
    video = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    assert crop(video, 2, 0.0, 0.0)[0, 0, 0] == 0
    assert crop(video, 2, 0.999, 0.999)[0, -1, -1] == 15

    def ramp(key: int = 0) -> Clip:
        clip = sample(key)
        clip["video"] = torch.arange(64, dtype=torch.uint8).view(1, 1, 1, 8, 8)
        return clip

    shift = Augment(margin=2)
    places = {int(shift(ramp(k), DATA, "front")["video"].flatten()[0]) for k in range(200)}
    assert places == {8 * y + x for y in range(3) for x in range(3)}
    middle = CentreCrop(margin=2)(ramp(), DATA, "front")["video"]
    assert middle.flatten()[0] == 8 + 1
    with pytest.raises(ConfigError, match="cannot crop 5 pixels"):
        crop(video, 5, 0.0, 0.0)


def test_jitter_by_hand() -> None:
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    assert jitter(grey, 1.2, 1.0, 1.0).unique().tolist() == [120]
    assert jitter(grey, 1.0, 3.0, 1.0).unique().tolist() == [100]  # contrast turns around the mean
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert jitter(red, 1.0, 1.0, 0.0).flatten().tolist() == [43, 43, 43]  # 0.2126 * 200


def test_a_flip_mirrors_picture_and_labels() -> None:
    """In the toy world the camera's x is the state's x, so only x changes sign."""
    clip = sample()
    flipped = mirror(clip, DATA, "front")
    assert torch.equal(flipped["video"], clip["video"].flip(-1))
    signs = torch.tensor([-1.0, 1, 1, 1])
    torch.testing.assert_close(flipped["state"], clip["state"] * signs)
    torch.testing.assert_close(flipped["action"], clip["action"] * signs)
    torch.testing.assert_close(mirror(flipped, DATA, "front")["state"], clip["state"])


def test_a_turned_camera_mirrors_another_axis() -> None:
    turned = Synthetic(SyntheticConfig())
    turned.world_to_camera = {"front": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])}
    signs = torch.tensor([1.0, -1, 1, 1])  # the camera's x is the world's y
    clip = sample()
    torch.testing.assert_close(mirror(clip, turned, "front")["state"], clip["state"] * signs)


def test_half_of_the_samples_are_flipped() -> None:
    x = sample()["state"][0, 0]
    turned = [Augment(flip=0.5)(sample(k), DATA, "front")["state"][0, 0] == -x for k in range(200)]
    assert 75 < sum(turned) < 125


def test_labels_that_cannot_be_mirrored_are_errors() -> None:
    with pytest.raises(ConfigError, match="orientation of camera 'wrist'"):
        mirror(sample(), DATA, "wrist")
    turning = Synthetic(SyntheticConfig())
    turning.state_names = ("x", "y", "z", "yaw")
    with pytest.raises(ConfigError, match="rotations"):
        mirror(sample(), turning, "front")

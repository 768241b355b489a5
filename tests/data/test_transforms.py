from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.transforms import (
    MEAN,
    STD,
    Augment,
    CentreCrop,
    Framing,
    ac_box,
    ac_crop,
    crop,
    fit,
    jitter,
    mirror,
    normalise,
    pad_box,
    shortest_edge_crop,
    stretch,
    vjepa_clip,
)
from saccade.data.windows import ClipWindow, PairWindow
from saccade.errors import ConfigError
from saccade.types import Clip, Crop

DATA = SyntheticConfig(image_size=32, noise=0.0).build()


SIZES = [(180, 320), (480, 640), (256, 256), (320, 180), (292, 400), (90, 91)]


def film(frames: int, height: int, width: int) -> torch.Tensor:
    """Fine texture, in memory as readers give it: ``[t, h, w, 3]``."""
    video = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3)).astype(np.uint8)
    return torch.from_numpy(video).permute(0, 3, 1, 2)


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
    for names in ("x y z yaw", "x y z r11", "x y z joint_1", "x y gripper z_", "l.x l.y r.x r.y"):
        turning.state_names = tuple(names.split())
        with pytest.raises(ConfigError, match="rotations, joints or two hands"):
            mirror(sample(), turning, "front")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shortest_edge_crop_is_pillows(height: int, width: int) -> None:
    video = film(2, height, width)
    found = shortest_edge_crop(video)
    assert found.shape == (2, 3, 256, 256)
    short = min(height, width)
    size = (int(292 * width / short), int(292 * height / short))
    left, top = (round((side - 256) / 2) for side in size)
    for frame, expected in zip(found, video, strict=True):
        picture = Image.fromarray(expected.permute(1, 2, 0).numpy())
        resized = picture.resize(size, Image.Resampling.BILINEAR)
        cut = np.asarray(resized)[top : top + 256, left : left + 256]
        assert np.abs(frame.permute(1, 2, 0).numpy().astype(int) - cut).max() <= 1
    assert torch.equal(shortest_edge_crop(video.contiguous()), found)  # whatever the memory


def test_shortest_edge_crop_by_hand() -> None:
    """180 x 320 becomes 292 x 519; 131.5 columns are left out, rounded to the nearest even."""
    video = film(1, 292, 519)
    assert torch.equal(shortest_edge_crop(video), video[..., 18:274, 132:388])
    with pytest.raises(ConfigError, match="cannot crop 256 pixels out of a shortest edge of 255"):
        shortest_edge_crop(video, edge=255)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (720, 1280, (0, 720), (154, 1126)),
        (180, 320, (0, 180), (38, 281)),
        (480, 640, (0, 480), (0, 640)),
        (640, 360, (80, 560), (0, 360)),  # narrower than 0.75: 480 rows
    ],
)
def test_ac_crop_is_the_official_one(
    height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    video = film(1, height, width)
    part = video[..., slice(*rows), slice(*columns)].float()
    expected = F.interpolate(part, (256, 256), mode="bilinear", antialias=False)
    assert torch.equal(ac_crop(video), expected)
    hidden = video.clone()
    hidden[..., slice(*rows), slice(*columns)] = 0
    assert not ac_crop(hidden).any(), "a pixel outside the crop is seen"


def test_ac_crop_reads_the_nearest_four_pixels() -> None:
    """Shrunk fourfold, pixel 0 lies at 1.5: between the second and the third."""
    video = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    video[..., 1:3, 1:3] = torch.tensor([[10, 20], [30, 60]])
    assert ac_crop(video, size=2)[0, 0, 0, 0] == 30.0


def test_fit_keeps_the_aspect_and_does_not_alias() -> None:
    video = torch.randint(0, 256, (2, 3, 90, 160), dtype=torch.uint8)
    square = video[..., 35:125].float()
    exact = F.interpolate(square, (32, 32), mode="bilinear", antialias=True)
    found = fit(video, 32)
    assert (found.float() - exact).abs().max() <= 1
    assert torch.equal(fit(video, 90), video[..., 35:125])
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32).expand(1, 3, 64, 64)
    inner = fit(stripes, 16)[..., 1:-1].float()
    assert (inner - 127.5).abs().max() < 2
    assert fit(video[..., :8, :8], 32).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("kept", [None, "frames first", "channels first"])
@pytest.mark.parametrize("layout", ["pixels", "planes", "a part"])
def test_normalise(layout: str, kept: str | None) -> None:
    video = {
        "pixels": film(4, 10, 12),
        "planes": film(4, 10, 12).contiguous(),
        "a part": film(4, 14, 20)[..., 2:12, 3:15],
    }[layout]
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    expected = ((video.permute(0, 2, 3, 1) / 255 - mean) / std).permute(3, 0, 1, 2)
    out = {
        None: None,
        "frames first": torch.empty(4, 10, 12, 3).permute(3, 0, 1, 2),
        "channels first": torch.empty(3, 4, 10, 12),
    }[kept]
    found = normalise(video, out)
    assert out is None or found is out
    assert found.shape == (3, 4, 10, 12)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(normalise(video.float()), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("crop", ["centre", "ac"])
def test_a_clip_for_v_jepa(crop) -> None:
    data = SyntheticConfig(episodes=1, length=20, image_size=48).build()
    clip = ClipWindow(num_frames=16, every=8).read(data, np.array([0, 3, 15, 0]))
    found = vjepa_clip(clip, crop)
    assert found.shape == (3, 16, 256, 256)
    assert found.dtype == torch.float32
    frames = data.pixels(0, "front", np.arange(3, 19))
    cut = shortest_edge_crop(frames) if crop == "centre" else ac_crop(frames)
    red = (cut[5, 0] / 255 - 0.485) / 0.229
    torch.testing.assert_close(found[0, 5], red, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(24, 60), (30, 36), (60, 24)])
def test_the_training_crop_of_ac_is_a_framing_with_a_matrix(height: int, width: int) -> None:
    video = torch.randint(256, (2, 3, height, width), dtype=torch.uint8)
    framing = Framing.named("ac", 16)
    shown = framing(video)
    assert shown.dtype == torch.uint8
    assert (shown - ac_crop(video, 16)).abs().max() <= 0.5001
    top, left, tall, wide = ac_box(height, width)
    corners = np.array([[left - 0.5, top - 0.5, 1], [left + wide - 0.5, top + tall - 0.5, 1]])
    moved = corners @ framing.matrix(height, width).T
    np.testing.assert_allclose(moved[:, :2], [[-0.5, -0.5], [15.5, 15.5]], atol=1e-12)


def test_framings_are_told_apart() -> None:
    assert Framing.named("square", 256) == Framing(size=256)
    assert Framing.named("centre", 256) == Framing(size=256, edge=292)
    assert {crop: Framing.named(crop, 64).tag for crop in get_args(Crop)} == {
        "ac": "64/ac",
        "centre": "64/73",
        "pad": "64/pad",
        "square": "64",
        "stretch": "64/stretch",
    }
    with pytest.raises(ConfigError, match="cropped in one way"):
        Framing(size=64, edge=73, how="ac")


@pytest.mark.parametrize(
    ("height", "width", "size", "box"),
    [
        (180, 320, 224, (49, 0, 126, 224)),  # DROID: 224 * 180 / 320 = 126, 98 rows of bars
        (480, 640, 224, (28, 0, 168, 224)),
        (640, 480, 224, (0, 28, 224, 168)),
        (30, 47, 16, (3, 0, 10, 16)),  # 10.2 rows are 10, and of 6 each bar has 3
        (36, 47, 16, (2, 0, 12, 16)),
        (25, 47, 16, (4, 0, 8, 16)),
        (33, 47, 16, (2, 0, 11, 16)),  # 5 rows of bars: 2 above, 3 below
        (24, 24, 16, (0, 0, 16, 16)),
    ],
)
def test_bars_are_where_pi0s_pictures_have_them(
    height: int, width: int, size: int, box: tuple[int, int, int, int]
) -> None:
    assert pad_box(height, width, size) == box
    video = torch.randint(1, 256, (2, 3, height, width), dtype=torch.uint8)
    framing = Framing.named("pad", size)
    top, left, rows, columns = box
    shown = framing(video)
    assert torch.equal(
        shown[..., top : top + rows, left : left + columns], stretch(video, rows, columns)
    )
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[top : top + rows, left : left + columns] = True
    assert (shown[..., ~inside] == 0).all()
    corners = np.array([[-0.5, -0.5, 1], [width - 0.5, height - 0.5, 1]])
    moved = corners @ framing.matrix(height, width).T
    expected = [[left - 0.5, top - 0.5], [left + columns - 0.5, top + rows - 0.5]]
    np.testing.assert_allclose(moved[:, :2], expected, atol=1e-12)


def test_a_whole_frame_is_squashed() -> None:
    ramp = torch.arange(0, 240, 5, dtype=torch.uint8).expand(1, 3, 12, 48).contiguous()
    framing = Framing.named("stretch", 12)
    shown = framing(ramp)
    # four columns become one, their weights a triangle that is symmetric about its middle
    assert (shown[0, 0, 4, 2:-2].float() - (7.5 + 20 * torch.arange(12.0))[2:-2]).abs().max() <= 0.5
    corners = np.array([[-0.5, -0.5, 1], [47.5, 11.5, 1]])
    np.testing.assert_allclose(
        (corners @ framing.matrix(12, 48).T)[:, :2], [[-0.5, -0.5], [11.5, 11.5]], atol=1e-12
    )
    square = torch.randint(256, (1, 3, 20, 20), dtype=torch.uint8)
    for how in ("stretch", "pad"):
        assert torch.equal(Framing.named(how, 16)(square), Framing.named("square", 16)(square))

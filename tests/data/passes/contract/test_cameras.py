"""Which cameras stand still, and what crops leave of their pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.data.passes.contract.cameras import (
    Camera,
    background_change,
    check_cameras,
    choose,
    look,
    pictures,
    square_box,
)
from saccade.data.passes.contract.findings import gather
from saccade.data.transforms import ac_box
from saccade.errors import DataError
from tests.fixtures.arm import ArmConfig, Untimed


def texture(height: int = 96, width: int = 128) -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (height // 8, width // 8, 3)).astype(np.uint8)
    return torch.from_numpy(coarse.repeat(8, 0).repeat(8, 1)).permute(2, 0, 1)


def test_a_background_that_stands_still_does_not_change() -> None:
    room = texture()
    assert background_change(torch.stack([room, room])) == (0.0, 0.0)
    arm = room.clone()
    arm[:, 40:60, 50:80] = 255
    background, centre = background_change(torch.stack([room, arm])) or (1.0, 0.0)
    assert background == 0
    assert 0.05 < centre < 0.5
    brighter = (room + 40).clamp(max=255)
    assert background_change(torch.stack([room, brighter])) == (0.0, 0.0)
    noisy = room + torch.randint(0, 9, room.shape, generator=torch.manual_seed(0)).byte()
    assert background_change(torch.stack([room, noisy])) == (0.0, 0.0)


def test_an_arm_that_comes_in_over_an_edge_is_not_the_background() -> None:
    room, arm = texture(), texture()
    arm[:, :, :16] = 255
    background, _ = background_change(torch.stack([room, arm])) or (1.0, 0.0)
    assert background < 0.1


def test_a_camera_that_moves_changes_everywhere() -> None:
    room = texture()
    moved = room.roll((5, 9), (1, 2))
    background, centre = background_change(torch.stack([room, moved])) or (0.0, 0.0)
    assert background > 0.5
    assert centre > 0.5


def test_a_wall_without_texture_tells_nothing() -> None:
    wall = torch.full((2, 3, 96, 128), 90, dtype=torch.uint8)
    wall[:, :, 40:50, 40:50] = 200
    assert background_change(wall) is None


def test_the_fixed_camera_is_used() -> None:
    sample = gather(ArmConfig().build(), 0.25)
    cameras = look(sample)
    assert {c.name: c.verdict for c in cameras} == {"wrist": "moving", "side": "fixed"}
    used = choose(cameras)
    assert used is not None
    assert (used.name, used.sizes, used.episodes) == ("side", {(144, 256): 6}, 6)
    assert used.strip is not None
    assert used.strip.shape == (8, 3, 144, 256)
    assert choose(cameras, "wrist") is cameras[0]


def test_poses_must_agree_with_pictures() -> None:
    known = look(gather(ArmConfig(poses=True).build(), 0.25))
    assert {c.name: c.verdict for c in known} == {"wrist": "moving", "side": "fixed"}
    assert known[1].left == 0.5
    assert (
        "on the left in 50% of episodes"
        in check_cameras(gather(ArmConfig(poses=True).build(), 0.25), known)[0].found
    )
    moving = look(gather(ArmConfig(poses=True, defect="camera moves").build(), 0.25))
    assert {c.name: c.verdict for c in moving} == {"wrist": "moving", "side": "unclear"}


def test_the_left_camera_comes_first() -> None:
    right, left, unknown = Camera("r", lefts=[-1.0]), Camera("l", lefts=[1.0]), Camera("u")
    for camera in (right, left, unknown):
        camera.edges, camera.centres = [0.0], [0.0]
    assert choose([unknown, right, left]) is left
    assert choose([unknown, right]) is unknown
    assert choose([Camera("nothing seen")]) is None


@pytest.mark.parametrize(
    ("height", "width", "ac", "square"),
    [  # of the official transform: spec/vjepa2ac.md, 3.5
        (720, 1280, (0, 154, 720, 972), (0, 280, 720, 720)),
        (180, 320, (0, 38, 180, 243), (0, 70, 180, 180)),
        (480, 640, (0, 0, 480, 640), (0, 80, 480, 480)),
        (400, 200, (66, 0, 267, 200), (100, 0, 200, 200)),
    ],
)
def test_boxes_are_the_official_ones(height: int, width: int, ac: tuple, square: tuple) -> None:
    assert ac_box(height, width) == ac
    assert square_box(height, width) == square
    sample = gather(ArmConfig(episodes=1).build(), 0.25)
    camera = Camera("side")
    camera.sizes[height, width] = 1
    found = pictures(sample, camera)
    assert (found.verdict, found.numbers["ac_crop"]) == ("ok", list(ac))


def test_small_many_sized_and_repeated_pictures_are_told() -> None:
    sample = gather(ArmConfig(episodes=1).build(), 0.25)
    camera = Camera("side")
    camera.sizes[96, 96] = 3
    assert pictures(sample, camera).verdict == "warning"
    camera.sizes[240, 320] = 1
    assert "crops differ" in pictures(sample, camera).mend
    camera.repeated = [True, True, True, False]
    found = pictures(sample, camera)
    assert (found.verdict, "75% of frames are the one before" in found.found) == ("fails", True)


def test_frames_that_repeat_are_counted() -> None:
    episodes = ArmConfig(defect="every frame four times").build()
    (camera,) = (c for c in look(gather(episodes, 0.25)) if c.name == "side")
    assert 0.7 < np.mean(camera.repeated) < 0.8
    (sound,) = (c for c in look(gather(ArmConfig().build(), 0.25)) if c.name == "side")
    assert np.mean(sound.repeated) == 0


class Broken(Untimed):
    def pixels(self, episode, camera, frames):
        if episode == 2 and camera == "side":
            raise DataError("side.mp4 is cut")
        return super().pixels(episode, camera, frames)


def test_broken_pictures_are_noted() -> None:
    sample = gather(Broken(replace(ArmConfig(), episodes=3)), 0.25)
    look(sample)
    assert sample.unreadable == {2: "side.mp4 is cut"}

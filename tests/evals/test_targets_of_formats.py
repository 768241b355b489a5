"""Every format that names an end effector gives labels; the others say what to do instead."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from saccade.data import open_episodes
from saccade.data.droid.raw import DroidRawConfig
from saccade.data.episodes import Episodes
from saccade.errors import DataError
from saccade.evals.clips import Clips, enumerate_clips, pairs
from saccade.evals.targets import Labelled, Labels, targets
from tests.fixtures.bridge import write_bridge, write_bridge_numpy, write_bridge_raw
from tests.fixtures.droid_raw import write_droid_raw
from tests.fixtures.egodex import write_egodex
from tests.fixtures.lerobot import write_lerobot
from tests.fixtures.libero import write_libero
from tests.fixtures.rlds import write_droid
from tests.fixtures.video_folder import write_video_folder

GAPS = (1, 5, 10, 20, 30)
POSE = {"position": (3, "m"), "rotation": (3, "rad"), "gripper": (1, "opening")}
CONTROLLER = {**POSE, "position": (3, "controller")}
HANDS = {"position": (6, "m"), "rotation": (6, "rad")}
PLACE = {"position": (3, "m"), "gripper": (1, "opening")}
BOTH, WORLD = ("camera", "world"), ("world",)
MAKE: dict[str, Callable[[Path], object]] = {
    "droid": lambda root: write_droid(root, more=True, size=(18, 32)),
    "droid_raw": write_droid_raw,
    "bridge": lambda root: write_bridge(root, 16),
    "bridge_raw": write_bridge_raw,
    "bridge_numpy": write_bridge_numpy,
    "libero": lambda root: write_libero(root, size=16),
    "egodex": lambda root: write_egodex(root, ("part1",), ("fold_towel",), 3, (18, 32)),
    "lerobot_unnamed": lambda root: write_lerobot(root, storage="image"),
    "videos": lambda root: write_video_folder(root, 1),
    "npz": lambda root: write_npz(root),
}


def write_npz(root: Path) -> None:
    rng = np.random.default_rng(0)
    root.mkdir()
    pictures = rng.integers(0, 256, (2, 32, 8, 8, 3), dtype=np.uint8)
    states = rng.normal(0, 0.1, (2, 32, 7)).astype(np.float32)
    np.savez(root / "arm.npz", observations=pictures, states=states)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path, lerobot: Path
) -> Callable[[str], Path]:
    """Write each data set when it is first asked for."""
    made = {
        "metaworld": lerobot,
        **{name: shared_data / name for name in ("droid_tiny", "bridge_tiny")},
        **{name: shared_data / name for name in ("lerobot_v21_tiny", "lerobot_v3_tiny")},
    }

    def find(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("targets") / name
            MAKE[name](made[name])
        return made[name]

    return find


class Case(NamedTuple):
    """A data set as it is opened, the camera, and what is to be had of it."""

    name: str
    options: dict[str, str]
    camera: str
    frames: tuple[str, ...]
    moved: dict[str, tuple[int, str]]
    asked: dict[str, tuple[int, str]]


VELOCITY = {"action": "cartesian_velocity"}
CASES = [
    Case("droid", {}, "exterior_1", BOTH, POSE, POSE),
    Case("droid", VELOCITY, "exterior_1", BOTH, POSE, POSE),
    Case("droid", {}, "wrist", WORLD, POSE, POSE),
    Case("droid_tiny", {"action": "delta"}, "exterior_1", WORLD, POSE, POSE),
    Case("droid_raw", {}, "left", BOTH, POSE, POSE),
    Case("droid_raw", VELOCITY, "wrist", BOTH, POSE, POSE),
    Case("bridge", {}, "image_0", WORLD, POSE, POSE),
    Case("bridge_tiny", {"action": "relabelled"}, "image_0", WORLD, POSE, POSE),
    Case("bridge_raw", {}, "image_0", WORLD, POSE, POSE),
    Case("bridge_numpy", {}, "image_0", WORLD, POSE, POSE),
    Case("libero", {}, "agentview", WORLD, POSE, POSE),
    Case("libero", {"action": "metric", "state": "eef_joint"}, "wrist", WORLD, POSE, POSE),
    Case("libero", {"state": "openvla"}, "wrist", WORLD, {**POSE, "gripper": (2, "opening")}, POSE),
    Case("egodex", {}, "head", BOTH, HANDS, HANDS),
    Case("egodex", {"state": "wrists", "frame": "world"}, "head", BOTH, HANDS, HANDS),
    Case("lerobot_v21_tiny", {}, "front", WORLD, POSE, CONTROLLER),
    Case("lerobot_v3_tiny", {}, "front", WORLD, POSE, CONTROLLER),
    Case("metaworld", {}, "front", BOTH, PLACE, {**PLACE, "position": (3, "controller")}),
    Case("npz", {}, "camera", WORLD, POSE, {}),
]


def check(found: Labelled, frames: tuple[str, ...], groups: dict[str, tuple[int, str]]) -> None:
    assert {(t.frame, t.group): (t.values.shape[1], t.unit) for t in found.targets} == {
        (frame, group): known for frame in frames for group, known in groups.items()
    }
    for target in found.targets:
        assert len(target.values) == len(found.clips.start) > 0
        assert target.values.any() or target.group == "gripper", target.group


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join((c.name, *c.options.values())))
def test_formats_with_an_end_effector(case: Case, folder: Callable[[str], Path]) -> None:
    episodes = open_episodes(folder(case.name), **case.options)
    for gap in (gap for gap in GAPS if gap < sorted(episodes.lengths)[-2]):
        clips = enumerate_clips(episodes, (0, gap), 4)
        found = targets(episodes, clips, case.camera)
        check(found, case.frames, case.moved)
        for target in found.targets:
            bodies = target.values.shape[1] / (1 if target.group == "gripper" else 3)
            limit = {"m": 0.01, "rad": np.deg2rad(5), "opening": 0.1}[target.unit]
            assert target.tolerance == pytest.approx(limit * bodies**0.5)
        if case.asked and gap in (5, 20):
            asked = targets(episodes, clips, case.camera, Labels(motion="action"))
            check(asked, case.frames, case.asked)
            assert all((t.tolerance is None) == (t.group != "gripper") for t in asked.targets)


def opened(folder: Callable[[str], Path], name: str, **options: str) -> tuple[Episodes, Clips]:
    episodes = open_episodes(folder(name), **options)
    return episodes, enumerate_clips(episodes, (0, 5), 3)


def measured_and_commanded(episodes: Episodes, clips: Clips, camera: str) -> list[Labelled]:
    return [targets(episodes, clips, camera, Labels(motion=m)) for m in ("displacement", "action")]


@pytest.mark.parametrize("name", ["droid", "droid_raw", "droid_tiny"])
def test_steps_that_were_measured_compose_to_what_was_measured(
    name: str, folder: Callable[[str], Path]
) -> None:
    """DROID's ``delta`` is the motion from frame to frame: all of it, over any gap."""
    moved, asked = measured_and_commanded(*opened(folder, name, action="delta"), "wrist")
    for one, other in zip(moved.targets, asked.targets, strict=True):
        if one.group != "gripper":  # a change, and the last command
            np.testing.assert_allclose(one.values, other.values, atol=2e-5)


def test_commands_to_reach_the_next_pose_end_where_the_arm_did(
    folder: Callable[[str], Path],
) -> None:
    """The fixture's arm is sent to where it will be: goals are the displacement."""
    moved, asked = measured_and_commanded(*opened(folder, "droid"), "exterior_1")
    for one, other in zip(moved.targets, asked.targets, strict=True):
        if one.group != "gripper":
            np.testing.assert_allclose(one.values, other.values, atol=1e-6)


def test_relabelled_steps_of_bridge_move_the_state_as_far(folder: Callable[[str], Path]) -> None:
    episodes, clips = opened(folder, "bridge", action="relabelled")
    moved, asked = measured_and_commanded(episodes, clips, "image_0")
    np.testing.assert_allclose(moved.targets[0].values, asked.targets[0].values, atol=1e-6)


def test_commanded_steps_of_bridge_overshoot_as_the_fixture_does(
    folder: Callable[[str], Path],
) -> None:
    episodes, clips = opened(folder, "bridge_raw")
    clips = clips.taken(np.flatnonzero(clips.episode < 2))  # the last was recorded one step late
    moved, asked = measured_and_commanded(episodes, clips, "image_0")
    np.testing.assert_allclose(asked.targets[0].values, 1.2 * moved.targets[0].values, atol=1e-5)


def test_normalised_and_metric_steps_of_libero_are_the_same_labels(
    folder: Callable[[str], Path],
) -> None:
    one, other = (
        targets(*opened(folder, "libero", action=unit), "wrist", Labels(motion="action")).targets
        for unit in ("normalised", "metric")
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first.values, second.values, atol=1e-6)


def test_cameras_of_droid_see_motion_from_where_they_stand(folder: Callable[[str], Path]) -> None:
    """Raw cameras see each episode from its own place, the wrist's from a moving one."""
    episodes = DroidRawConfig(root=folder("droid_raw")).build()
    clips = pairs(np.array([0, 0, 1]), np.array([0, 7, 7]), 5)
    for camera in ("left", "wrist"):
        found = {(t.group, t.frame): t.values for t in targets(episodes, clips, camera).targets}
        for group in ("position", "rotation"):
            for row, (episode, start) in enumerate(zip(clips.episode, clips.start, strict=True)):
                poses = episodes.camera_poses(int(episode), camera)
                assert poses is not None
                seen = poses[start, :3, :3].T @ found[group, "world"][row]
                np.testing.assert_allclose(found[group, "camera"][row], seen, atol=1e-9)
    blind = pairs(np.array([1, 2]), np.array([0, 0]), 5)  # the last one has no videos
    assert targets(episodes, blind, "left").left_out == {"camera pose unknown": 1}


@pytest.mark.parametrize(
    ("name", "options", "motion", "message"),
    [
        ("droid", {"state": "joint"}, "displacement", r"only joint_1, .*state=cartesian"),
        ("droid", {"action": "joint"}, "action", r"only joint_1, .*action=cartesian"),
        ("droid", {"state": "joint"}, "action", r"to start from; .*state=cartesian"),
        ("libero", {"state": "joint"}, "displacement", r"state=eef for LIBERO"),
        ("lerobot_unnamed", {}, "displacement", r"only state_0, .*name its axes x, y and z"),
        ("npz", {}, "action", r"only nothing; take the displacement"),
        ("videos", {}, "displacement", r"only nothing; take probes of pixels alone"),
        ("videos", {}, "action", r"only nothing; take probes of pixels alone"),
        ("metaworld", {}, "hand", r"names no position of right_hand, .*EgoDex"),
    ],
)
def test_formats_without_one_say_what_to_do(
    folder: Callable[[str], Path], name: str, options: dict[str, str], motion, message: str
) -> None:
    episodes, clips = opened(folder, name, **options)
    with pytest.raises(DataError, match=message):
        targets(episodes, clips, episodes.cameras[0], Labels(motion=motion))

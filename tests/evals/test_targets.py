"""Labels by hand in both frames, before cameras that stand, stand elsewhere, and move."""

from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.egodex.reader import EgoDex, EgoDexConfig, Frame
from saccade.data.episodes import Episodes, Subset, split
from saccade.data.framed import FramedEpisodes
from saccade.data.synthetic import SyntheticConfig
from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError
from saccade.evals import statistics
from saccade.evals.clips import Clips, enumerate_clips, pairs
from saccade.evals.readouts import fitter
from saccade.evals.targets import Labelled, Labels, Target, check_alike, targets
from tests.evals.elsewhere import Elsewhere, elsewhere, seen_change
from tests.evals.oracle import Poses, parts
from tests.fixtures.egodex import make_poses, write_egodex

TURN = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # world x is the camera's forward
MOVES = np.array([[0.0, 0, 0, 0], [0.1, 0, 0, 1], [0.1, 0.2, 0, 1], [0.1, 0.2, 0.3, 0.5]])
NAMES = ("x", "y", "z", "gripper")
ACTION, HAND = Labels(motion="action"), Labels(motion="hand")
GROUPS = ["hand", "wrist", "thumb", "index", "middle", "ring", "little"]
TIPS = [f"{f}Tip" for f in ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")]


def by_key(found: Labelled) -> dict[tuple[str, str], Target]:
    return {(target.group, target.frame): target for target in found.targets}


def first_pair(gap: int) -> Clips:
    return pairs(np.array([0]), np.array([0]), gap)


def test_displacements_by_hand_in_both_frames() -> None:
    found = by_key(targets(Poses(MOVES, NAMES, TURN), first_pair(3), "front"))
    assert_allclose(found["position", "world"].values, [[0.1, 0.2, 0.3]], atol=1e-6)
    assert_allclose(found["position", "camera"].values, [[-0.2, -0.3, 0.1]], atol=1e-6)
    assert found["gripper", "camera"].values.item() == 0.5
    assert found["gripper", "world"].values.item() == 0.5
    assert [found["position", "camera"].tolerance, found["position", "camera"].unit] == [0.01, "m"]


def test_an_unknown_camera_leaves_the_world_frame_only() -> None:
    found = targets(Poses(MOVES, NAMES), first_pair(1), "front")
    assert {target.frame for target in found.targets} == {"world"}
    assert found.left_out == {}


def test_actions_are_summed_over_the_gap_and_the_last_gripper_counts() -> None:
    away = np.array([0.5, 0.5, 0, 0])  # else commands would look like goals
    far = Poses(MOVES + away, NAMES, TURN)
    far.numbers = lambda episode, frames: (far.state[frames], MOVES.astype(np.float32)[frames])
    found = by_key(targets(far, first_pair(3), "front", ACTION))
    total = MOVES[:3].sum(0)  # steps 0, 1, 2; not the one that starts at the last frame
    assert_allclose(found["position", "world"].values, total[None, :3], atol=1e-6)
    assert_allclose(found["position", "camera"].values, [TURN @ total[:3]], atol=1e-6)
    assert found["gripper", "world"].values.item() == 1
    position = found["position", "world"]
    assert (position.tolerance, position.unit) == (None, "controller")


@pytest.mark.parametrize("gap", [1, 4, 10])
def test_actions_over_the_gap_move_the_state_as_far(gap: int) -> None:
    episodes = parts()["test"]
    clips = enumerate_clips(episodes, (0, gap), 3)
    commanded, moved = (
        by_key(targets(episodes, clips, "front", labels))["position", "world"].values
        for labels in (ACTION, Labels())
    )
    assert_allclose(commanded, moved, atol=1e-6)


@pytest.mark.parametrize("names", [("roll", "pitch", "yaw"), ("rx", "ry", "rz")])
def test_rotations_are_the_vector_that_turns_the_first_pose_into_the_second(
    names: tuple[str, ...],
) -> None:
    angles = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
    turn = Rotation.from_euler("xyz", angles) if "yaw" in names else Rotation.from_rotvec(angles)
    found = by_key(targets(Poses(angles, names, TURN), first_pair(1), "front"))
    expected = (turn[1] * turn[0].inv()).as_rotvec()
    assert_allclose(found["rotation", "world"].values, [expected], atol=1e-6)
    assert_allclose(found["rotation", "camera"].values, [TURN @ expected], atol=1e-6)


def test_two_hands_are_predicted_together_and_finger_tips_with_them_are_not() -> None:
    matrix = Rotation.from_rotvec([[0, 0, 0], [0, 0, 0.5]]).as_matrix()
    axes = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")
    names, columns = [], []
    for hand, way in (("left", 1.0), ("right", -2.0)):
        names += [f"{hand}.{axis}" for axis in axes] + [f"{hand}_tip.{axis}" for axis in "xyz"]
        columns += [np.outer([0, 1], [way, 0, 0]), *matrix.transpose(2, 0, 1)[:2], np.zeros((2, 3))]
    poses = Poses(np.concatenate(columns, 1), tuple(names), TURN)
    found = by_key(targets(poses, first_pair(1), "front"))
    position, rotation = found["position", "camera"], found["rotation", "world"]
    assert_allclose(position.values, [[0, 0, 1, 0, 0, -2]], atol=1e-6)
    assert_allclose(rotation.values, [[0, 0, 0.5, 0, 0, 0.5]], atol=1e-6)
    assert position.tolerance == pytest.approx(0.01 * 2**0.5)


def test_a_label_that_is_not_finite_names_its_episode() -> None:
    state = MOVES.copy()
    state[1, 0] = np.nan
    with pytest.raises(DataError, match="position of episode 0 is not finite"):
        targets(Poses(state, NAMES), first_pair(1), "front")


def test_labels_stay_with_their_clips_in_any_order() -> None:
    episodes = elsewhere(12)["train"]
    clips = enumerate_clips(episodes, (0, 4), 3)
    order = np.random.default_rng(0).permutation(len(clips.start))
    there, mixed = (targets(episodes, c, "front") for c in (clips, clips.taken(order)))
    for one, other in zip(there.targets, mixed.targets, strict=True):
        np.testing.assert_array_equal(one.values[order], other.values)


# ---- cameras that stand elsewhere


def test_pictures_tell_the_camera_frame_and_not_the_world() -> None:
    data = elsewhere()
    clips = {name: enumerate_clips(part, (0, 8), 2) for name, part in data.items()}
    x = {name: seen_change(part, clips[name]) for name, part in data.items()}
    fit = fitter("linear", x["train"], 0)
    for labels in (Labels(), ACTION):
        known = {
            name: by_key(targets(part, clips[name], "front", labels)) for name, part in data.items()
        }
        found = {}
        for frame in ("camera", "world"):
            train, select, true = (
                known[n]["position", frame].values for n in ("train", "select", "test")
            )
            guess = fit(train, x["select"], select).predict(x["test"])
            sums = statistics.episode_sums(guess, true, clips["test"].episode, None)
            found[frame] = statistics.r2(sums.sum(0, keepdims=True)).item()
        assert found["camera"] > 0.8  # the square is a few pixels wide
        assert found["world"] < 0.1


def test_clips_whose_camera_is_nowhere_are_left_out_where_others_are_somewhere() -> None:
    data = elsewhere(12, unplaced=frozenset({0, 3}))
    world = next(iter(data.values())).episodes
    clips = enumerate_clips(world, (0, 4), 4)
    found = targets(world, clips, "front")
    assert found.left_out == {"camera pose unknown": 2 * 3}
    assert not set(found.clips.episode) & {0, 3}
    assert {len(target.values) for target in found.targets} == {len(clips.start) - 6}
    blind = targets(world, clips, "side")
    assert {target.frame for target in blind.targets} == {"world"}
    assert len(blind.clips.start) == len(clips.start)


def test_parts_with_other_labels_are_refused() -> None:
    world = Elsewhere(SyntheticConfig(episodes=6), frozenset({3, 4, 5}))
    seen, blind = Subset(world, [0, 1, 2]), Subset(world, [3, 4, 5])
    parts = {"train": seen, "select": Subset(world, [2, 3]), "test": blind}
    known = {
        name: targets(part, enumerate_clips(part, (0, 4), 4), "front")
        for name, part in parts.items()
    }
    check_alike({name: known[name] for name in ("train", "select")})
    with pytest.raises(
        DataError, match=r"'train' and 'test' has the (position|gripper) in the cam"
    ):
        check_alike(known)


def test_rotations_of_cameras_pass_through_what_is_made_of_a_reader(tmp_path: Path) -> None:
    world = Elsewhere(SyntheticConfig(episodes=12))
    frames = np.array([3, 0])
    there = world.camera_rotations(1, "front", frames)
    assert there is not None
    assert_allclose(there, np.tile(world.turns[1].T, (2, 1, 1)))
    made: list[tuple[Episodes, int]] = [
        (Subset(world, [5, 1]), 1),
        (FramedEpisodes(world, Framing(size=16)), 1),
        (CachedEpisodes(Subset(world, [1]), tmp_path, 16, progress=lambda *_: None), 0),
    ]
    for episodes, number in made:
        np.testing.assert_array_equal(episodes.camera_rotations(number, "front", frames), there)
        assert episodes.camera_rotations(number, "side", frames) is None
        assert episodes.conventions == world.conventions
    still = split(parts()["train"].episodes, {"a": 1.0})["a"]
    np.testing.assert_array_equal(still.camera_rotations(0, "front", frames), [np.eye(3)] * 2)


def test_nothing_that_moves_gives_no_score_and_no_crash() -> None:
    pose = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    angles = np.tile([[0.3, 0.2, 0.5, 0.1, 1.2, 0.7, 1.0]], (12, 1))
    found = targets(
        Poses(angles, pose, TURN), enumerate_clips(Poses(angles, pose), (0, 4), 1), "front"
    )
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for target in found.targets:
        assert not target.values.any(), "rounding is no motion"
    true = by_key(found)["rotation", "camera"]
    guess = fitter("linear", x, 0)(true.values, x, true.values).predict(x)
    sums = statistics.episode_sums(guess, true.values, found.clips.episode, true.tolerance)
    assert np.isnan(statistics.r2(sums))
    assert np.isnan(statistics.cosine(sums))
    assert statistics.within(sums) == 1


# ---- hands, and a head that moves


@pytest.fixture(scope="module")
def egodex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episode 0 has confidences, 1 but for some frames of the right hand; episode 1 has none."""
    root = tmp_path_factory.mktemp("egodex")
    write_egodex(root, ("part1",), ("fold_towel",), episodes=2, size=(18, 32))
    doubts = {"ThumbTip": {3: 0.2, 4: 0.29}, "Hand": {8: 0.5, 15: 0.5}, "IndexFingerTip": {8: 0.5}}
    with h5py.File(root / "part1" / "fold_towel" / "0.hdf5", "r+") as file:
        for joint in ("Hand", *TIPS):
            shares = np.ones(24, np.float32)
            for frame, share in doubts.get(joint, {}).items():
                shares[frame] = share
            del file[f"confidences/right{joint}"]
            file[f"confidences/right{joint}"] = shares
    return root


def build(root: Path, **options) -> EgoDex:
    return EgoDexConfig(root=root, **options).build()


@pytest.mark.parametrize("gap", [1, 5, 10, 20])
@pytest.mark.parametrize("frame", ["camera", "world"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_hands_as_seen_from_where_the_head_was(
    egodex: Path, gap: int, frame: Frame, side: Literal["right", "left"]
) -> None:
    episodes, true = build(egodex, frame=frame), make_poses(0, 24)
    clips = pairs(np.zeros(4, int), np.array([0, 1, 2, 3]), gap)
    found = by_key(
        targets(episodes, clips, "head", Labels(motion="hand", side=side, confidence=0.0))
    )
    assert [group for group, frame in found if frame == "camera"] == GROUPS
    joints = [f"{side}{joint}" for joint in ("Hand", *TIPS)]
    moved = np.stack([true[j][clips.start + gap, :3, 3] - true[j][:4, :3, 3] for j in joints], 1)
    to_view = true["camera"][:4, :3, :3].transpose(0, 2, 1)
    seen = np.einsum("nij,nbj->nbi", to_view, moved)
    assert_allclose(found["hand", "world"].values, moved.reshape(4, 18), atol=1e-6)
    assert_allclose(found["hand", "camera"].values, seen.reshape(4, 18), atol=1e-6)
    for i, group in enumerate(GROUPS[1:]):
        assert_allclose(found[group, "camera"].values, seen[:, i], atol=1e-6)
        assert found[group, "camera"].tolerance == 0.01
    assert found["hand", "camera"].tolerance == pytest.approx(0.01 * 6**0.5)


def test_a_head_that_turns_moves_no_hand(tmp_path: Path) -> None:
    """A hand that stands in the world has no label, however the head looks around."""
    state = np.tile([[0.1, -0.3, 0.5]], (6, 1))

    class Head(Poses):
        def camera_poses(self, episode: int, camera: str) -> np.ndarray:
            poses = np.tile(np.eye(4), (6, 1, 1))
            poses[:, :3, :3] = Rotation.from_rotvec(np.outer(np.arange(6), [0, 0.3, 0])).as_matrix()
            poses[:, 0, 3] = 0.05 * np.arange(6)
            return poses

    head = Head(state, ("x", "y", "z"))
    clips = enumerate_clips(head, (0, 3), 1)
    for target in targets(head, clips, "front").targets:
        assert not target.values.any()
    head.state[3:, 0] += 0.2  # and one that moves is seen from where the head was
    found = by_key(targets(head, clips, "front"))["position", "camera"].values
    expected = Rotation.from_rotvec(np.outer(-np.arange(3), [0, 0.3, 0])).apply([0.2, 0, 0])
    assert_allclose(found, expected, atol=1e-6)


def test_displacements_and_commands_do_not_depend_on_the_frame_of_the_reader(egodex: Path) -> None:
    found = [
        by_key(
            targets(
                build(egodex, frame=frame),
                pairs(np.zeros(9, int), np.arange(9), 10),
                "head",
                labels,
            )
        )
        for frame in ("camera", "world")
        for labels in (Labels(), ACTION)
    ]
    for other in found[1:]:  # commands are where the hands are next
        assert other.keys() == found[0].keys()
        for key, target in other.items():
            assert_allclose(target.values, found[0][key].values, atol=2e-6, err_msg=str(key))


def test_clips_with_a_joint_in_doubt_at_either_end_are_left_out(egodex: Path) -> None:
    episodes, clips = build(egodex), pairs(np.zeros(20, int), np.arange(20), 2)
    found = targets(episodes, clips, "head", HAND)
    # frames 3 and 4: a thumb; frame 8: a finger of 0.5 at a wrist of 0.5; frame 15: both are fine
    sure = ~np.isin(np.arange(20), [3, 4, 8, 3 - 2, 4 - 2, 8 - 2])
    np.testing.assert_array_equal(found.clips.start, np.flatnonzero(sure))
    assert found.left_out == {"confidence too low": 6}
    every = by_key(targets(episodes, clips, "head", Labels(motion="hand", confidence=0.0)))
    for key, target in by_key(found).items():
        np.testing.assert_array_equal(target.values, every[key].values[sure])


def test_confidences_pass_through_what_is_made_of_a_reader(egodex: Path, tmp_path: Path) -> None:
    episodes, frames = build(egodex), np.array([4, 0])
    there = episodes.confidences(0, "right_thumb_tip", frames)
    assert there is not None
    np.testing.assert_array_equal(there, episodes.confidences(0, "rightThumbTip", frames))
    made: list[Episodes] = [
        Subset(episodes, [0]),
        FramedEpisodes(episodes, Framing(size=16)),
        CachedEpisodes(Subset(episodes, [0]), tmp_path, 16, progress=lambda *_: None),
    ]
    for other in made:
        np.testing.assert_array_equal(other.confidences(0, "right_thumb_tip", frames), there)
        assert other.conventions.camera == "head"
        labelled = targets(other, pairs(np.zeros(2, int), np.array([9, 10]), 3), "head", HAND)
        assert len(labelled.targets) == 2 * len(GROUPS)
    with pytest.raises(DataError, match="confidences/rightWing"):
        episodes.confidences(0, "rightWing", frames)


def test_hands_without_confidences_or_with_none_left_are_refused(egodex: Path) -> None:
    episodes = build(egodex)
    old = pairs(np.ones(2, int), np.arange(2), 3)
    with pytest.raises(
        DataError, match=r"episode 1 of .* has no confidences; leave it out, or give"
    ):
        targets(episodes, old, "head", HAND)
    assert (
        len(targets(episodes, old, "head", Labels(motion="hand", confidence=0.0)).clips.start) == 2
    )
    with pytest.raises(DataError, match=r"none of 2 clips .* lower the confidence"):
        targets(
            episodes,
            old._replace(episode=np.zeros(2, int)),
            "head",
            Labels(motion="hand", confidence=1.0),
        )
    with pytest.raises(ConfigError, match=r"confidence is 1.5, expected a share from 0 to 1"):
        targets(episodes, old, "head", Labels(motion="hand", confidence=1.5))
    with pytest.raises(DataError, match=r"right_thumb_tip.*state=hands"):
        targets(build(egodex, state="wrists"), old, "head", HAND)

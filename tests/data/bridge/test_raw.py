"""Raw Bridge V2: what is paired with what, and every way in which it can be broken."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.bridge import raw as bridge_raw
from saccade.data.bridge.conventions import binary, measured_motion, with_last
from saccade.data.bridge.raw import BridgeRaw, BridgeRawConfig
from saccade.data.files.folder import Folder
from saccade.data.video.images import decode_image
from saccade.errors import DataError
from tests.contracts import check_reader
from tests.fixtures.bridge import RECORDINGS, V2, numbers, write_bridge_raw

TRAJECTORY = V2.replace("_group0", "_group0/traj2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bridge_raw(tmp_path_factory.mktemp("bridge_raw"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def opened(root: Path, **options: Any) -> BridgeRaw:
    return BridgeRawConfig(root=root, **options).build()


def everything(episodes: BridgeRaw, episode: int) -> tuple[np.ndarray, np.ndarray]:
    return episodes.numbers(episode, np.arange(episodes.lengths[episode]))


def test_it_is_a_reader(root: Path) -> None:
    check_reader(opened(root))


def test_what_there_is(root: Path) -> None:
    episodes = opened(root)
    assert BridgeRawConfig.recognises(Folder(root))
    assert episodes.lengths == [25, 31, 27], "traj2 before traj10; one frame less of the old one"
    assert episodes.tasks == ["put the corn in the pot", "", "close the drawer"]
    assert episodes.cameras == ("image_0", "image_1", "image_2")
    assert [len(episodes.cameras_of(i)) for i in range(3)] == [3, 1, 2]
    assert episodes.about(0) == {
        "source": TRAJECTORY,
        "tasks": ["put the corn in the pot", "move the corn into the pot"],
        "scene": "bridge_data_v2/tiny_kitchen",
        "delay": 0,
        "padded_last_action": True,
    }
    assert episodes.about(2)["scene"] == "rss/toykitchen2"
    assert episodes.about(2)["delay"] == 1


@pytest.mark.parametrize(
    "below",
    ["bridge_data_v2", V2.partition("/raw/")[0], V2.partition("/traj_")[0], V2],
)
def test_any_folder_above_will_do(root: Path, below: str) -> None:
    assert BridgeRawConfig.recognises(Folder(root / below))
    episodes = opened(root / below)
    assert episodes.lengths == [25, 31]
    state, _ = everything(episodes, 0)
    np.testing.assert_array_equal(state, numbers(0, 25)[0].astype(np.float32))


def test_pairing(root: Path) -> None:
    """Frame t goes with action t; the last one gets no motion and the gripper as it was."""
    state, action = everything(opened(root), 0)
    given, commanded, _ = numbers(0, 25)
    np.testing.assert_array_equal(state, given.astype(np.float32))
    np.testing.assert_array_equal(action[:24], commanded.astype(np.float32))
    np.testing.assert_array_equal(action[24], [0, 0, 0, 0, 0, 0, commanded[-1, 6].astype("f4")])


def test_delay(root: Path) -> None:
    """Before 2021-07-23, obs[1:] goes with actions[:-1], pictures as well."""
    given, commanded, times = numbers(2, 28)
    episodes = opened(root)
    state, action = everything(episodes, 2)
    np.testing.assert_array_equal(state, given[1:].astype(np.float32))
    np.testing.assert_array_equal(action[:26], commanded[:-1].astype(np.float32))
    np.testing.assert_array_equal(action[26, :6], np.zeros(6))
    np.testing.assert_allclose(episodes.timestamps(2), times[1:] - times[1], atol=1e-6)
    stored = (root / RECORDINGS[2].place / "images1" / "im_5.jpg").read_bytes()
    assert episodes.encoded(2, "image_1", np.array([4])) == [stored]

    as_it_is = opened(root, delay="none")
    assert as_it_is.lengths == [25, 31, 28]
    np.testing.assert_array_equal(everything(as_it_is, 2)[1][:27], commanded.astype(np.float32))
    assert as_it_is.encoded(2, "image_1", np.array([5])) == [stored]
    assert opened(root, delay="one").lengths == [24, 30, 27]


def test_the_day_from_which_there_is_no_delay(copy: Path) -> None:
    dated = (copy / RECORDINGS[2].place).parents[2]
    dated.rename(dated.with_name("2021-07-23_00-00-00"))
    assert opened(copy).lengths == [25, 31, 28]


def test_relabelled(root: Path) -> None:
    episodes = opened(root, action="relabelled")
    state, action = everything(episodes, 2)
    _, commanded = everything(opened(root), 2)
    np.testing.assert_array_equal(action[:-1, :6], np.diff(state[:, :6], axis=0))
    np.testing.assert_array_equal(action[-1, :6], np.zeros(6))
    np.testing.assert_array_equal(action[:, 6], commanded[:, 6])
    assert episodes.fingerprint != opened(root).fingerprint


def test_pictures_are_as_stored(root: Path) -> None:
    episodes, frames = opened(root), np.array([10, 2, 2])
    files = [root / RECORDINGS[1].place / "images0" / f"im_{t}.jpg" for t in frames]
    stored = [path.read_bytes() for path in files]
    assert episodes.encoded(1, "image_0", frames) == stored
    video = episodes.pixels(1, "image_0", frames)
    assert video.shape == (3, 3, 48, 64), "not squashed"
    assert all(v.equal(decode_image(data, "")) for v, data in zip(video, stored, strict=True))


def test_times(root: Path, copy: Path) -> None:
    _, _, times = numbers(0, 25)
    np.testing.assert_allclose(opened(root).timestamps(0), times - times[0], atol=1e-6)
    np.testing.assert_allclose(opened(root, clock="even").timestamps(0), np.arange(25) / 5)
    change(copy, "obs_dict.pkl", lambda o: {"full_state": o["full_state"]})
    np.testing.assert_allclose(opened(copy).timestamps(0), np.arange(25) / 5)


def test_cameras_can_be_chosen(root: Path) -> None:
    episodes = opened(root, cameras=("image_1", "image_0"))
    assert episodes.cameras_of(0) == ("image_1", "image_0")
    assert episodes.cameras_of(1) == ("image_0",)
    with pytest.raises(DataError, match=r"no cameras \['image_7'\]; it has \['image_0', 'image_1"):
        opened(root, cameras=("image_7",))


def change(root: Path, name: str, how: Callable[[Any], Any]) -> None:
    """Replace what a pickle of the first trajectory holds."""
    path = root / TRAJECTORY / name
    path.write_bytes(pickle.dumps(how(pickle.loads(path.read_bytes())), 4))


OBSERVED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("no dict", lambda o: [o], "has no full_state, only <class 'list'>"),
    ("no state", lambda o: {"qpos": o["qpos"]}, r"has no full_state, only \['qpos'\]"),
    ("six numbers", lambda o: o | {"full_state": o["full_state"][:, :6]}, r"shape \[25, 6\]"),
    ("a number", lambda o: o | {"full_state": 3.0}, r"full_state has the shape \[\]"),
    ("texts", lambda o: o | {"full_state": ["a"] * 25}, "full_state holds no vectors"),
    ("none", lambda o: o | {"full_state": None}, "full_state holds no vectors"),
    ("ragged", lambda o: o | {"full_state": [[1.0], [1.0, 2.0]]}, "full_state holds no vectors"),
    ("complex", lambda o: o | {"full_state": o["full_state"] * 1j}, "full_state holds no vectors"),
    ("nan", lambda o: o | {"full_state": o["full_state"] * np.nan}, "0 of 175 are finite"),
    ("huge", lambda o: o | {"full_state": o["full_state"] * 1e300}, "are finite"),
    (
        "too many",
        lambda o: o | {"full_state": np.zeros((26, 7))},
        "24 actions, obs_dict.pkl has 26",
    ),
    ("fewer times", lambda o: o | {"time_stamp": [1.0]}, "time_stamp has 1 values for 25 states"),
    (
        "time back",
        lambda o: o | {"time_stamp": [*range(24), 3]},
        "frame 24 is no later than frame 23",
    ),
]
POLICY: list[tuple[str, Callable[[Any], Any], str]] = [
    ("too few", lambda p: p[1:], r"policy_out\.pkl has 23 actions, obs_dict\.pkl has 25 states"),
    ("no actions", lambda p: [*p[:5], {"policy": 1}, *p[6:]], "no `actions` in entry 5 of 24"),
    ("mixed", lambda p: [*p[:5], np.zeros(7), *p[6:]], "no `actions` in entry 5 of 24"),
    ("a dict", lambda p: {"actions": p}, r"policy_out\.pkl holds no vectors"),
    ("six", lambda p: [{"actions": np.zeros(6)}] * 24, r"shape \[24, 6\]"),
]


@pytest.mark.parametrize(("how", "message"), [each[1:] for each in OBSERVED])
def test_broken_observations(copy: Path, how: Callable[[Any], Any], message: str) -> None:
    change(copy, "obs_dict.pkl", how)
    with pytest.raises(DataError, match=message) as caught:
        opened(copy)
    assert f"{TRAJECTORY}/" in str(caught.value)


@pytest.mark.parametrize(("how", "message"), [each[1:] for each in POLICY])
def test_broken_actions(copy: Path, how: Callable[[Any], Any], message: str) -> None:
    change(copy, "policy_out.pkl", how)
    with pytest.raises(DataError, match=message) as caught:
        opened(copy)
    assert f"{TRAJECTORY}/policy_out.pkl" in str(caught.value)


def test_a_clock_that_runs_back_can_be_left_aside(copy: Path) -> None:
    change(copy, "obs_dict.pkl", lambda o: o | {"time_stamp": [1.0] * 25})
    with pytest.raises(DataError, match="give clock=even"):
        opened(copy)
    assert opened(copy, clock="even").lengths == [25, 31, 27]


def test_a_pickle_that_would_run_something(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    for name in ("obs_dict.pkl", "policy_out.pkl"):
        path = copy / TRAJECTORY / name
        whole = path.read_bytes()
        path.write_bytes(command)
        with pytest.raises(DataError, match=rf"{name} is refused: .*'posix\.system'"):
            opened(copy)
        path.write_bytes(whole[:-100])
        with pytest.raises(DataError, match=rf"{name} is no whole pickle"):
            opened(copy)
        path.unlink()
        with pytest.raises(DataError, match=f"has no {name}"):
            opened(copy)
        path.write_bytes(whole)
    assert not marker.exists()


def test_broken_pictures(copy: Path) -> None:
    folder = copy / TRAJECTORY / "images1"
    picture = folder / "im_7.jpg"
    whole = picture.read_bytes()
    picture.unlink()
    with pytest.raises(DataError, match=r"images1/ has 24 pictures .* has 25 states"):
        opened(copy)
    episodes = opened(write_another(copy, whole, picture))
    for data in (whole[: len(whole) // 2], b"", b"<html>", bytes(len(whole))):
        picture.write_bytes(data)
        with pytest.raises(DataError, match=r"images1/im_7\.jpg"):
            episodes.read(0, np.array([6, 7]), ("image_1",))
    picture.unlink()
    with pytest.raises(DataError, match=r"images1/im_7\.jpg"):
        episodes.read(0, np.array([7]), ("image_1",))
    assert episodes.read(0, np.array([6, 8]), ("image_1",))["video"].shape[0] == 2


def write_another(root: Path, data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return root


def test_numbers_that_would_grow_are_refused(copy: Path) -> None:
    """Lists that hold one list twice, forty times over, are short in a file and endless outside."""
    shared: list[Any] = [0.0] * 7
    for _ in range(40):
        shared = [shared, shared]
    big = np.zeros(1 << 20)
    for rows in ([shared] * 25, [big] * 100_000, np.array({}, object)):
        change(copy, "obs_dict.pkl", lambda _, rows=rows: {"full_state": rows})
        with pytest.raises(DataError, match=r"obs_dict\.pkl, full_state holds no vectors"):
            opened(copy)


def test_a_link_to_a_folder_above_is_not_followed(copy: Path) -> None:
    before = opened(copy).lengths
    (copy / "rss" / "loop").symlink_to(copy, target_is_directory=True)
    assert opened(copy).lengths == before


def test_a_gap_in_the_numbers_of_pictures(copy: Path) -> None:
    folder = copy / TRAJECTORY / "images0"
    (folder / "im_24.jpg").rename(folder / "im_25.jpg")
    with pytest.raises(DataError, match=r"images0/ has 25 pictures im_N\.jpg \(N up to 25\)"):
        opened(copy)


def test_skipping(copy: Path) -> None:
    change(copy, "obs_dict.pkl", lambda o: o | {"time_stamp": [1.0] * 25})
    with pytest.raises(DataError, match="1 of 3 trajectories are broken, more than the 1"):
        opened(copy, on_error="skip")
    episodes = opened(copy, on_error="skip", most_skipped=0.4)
    assert episodes.lengths == [31, 27]
    assert list(episodes.skipped) == [f"{TRAJECTORY}/"]
    (copy / RECORDINGS[1].place / "policy_out.pkl").unlink()
    episodes = opened(copy, on_error="skip", most_skipped=0.7)
    assert episodes.lengths == [27]
    assert "has no policy_out.pkl" in episodes.skipped[f"{RECORDINGS[1].place}/"]
    (copy / RECORDINGS[2].place / "lang.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"3 of 3 trajectories are broken, more than the 70\.00%"):
        opened(copy, on_error="skip", most_skipped=0.7)
    with pytest.raises(DataError, match="no whole trajectory"):
        opened(copy, on_error="skip", most_skipped=1.0)


def test_a_folder_without_a_date(copy: Path) -> None:
    dated = (copy / RECORDINGS[2].place).parents[2]
    dated.rename(dated.with_name("take 3"))
    with pytest.raises(DataError, match=r"take 3/raw/.* is not below a folder named by a date"):
        opened(copy)
    assert opened(copy, delay="none").lengths == [25, 31, 28]
    assert opened(copy, on_error="skip", most_skipped=0.4).lengths == [25, 31]


def test_instructions(copy: Path) -> None:
    path = copy / TRAJECTORY / "lang.txt"
    lines = ("  open it \n\nConfidence: 0.5\nhave confidence\nopen it\nconfidence: 1\n", "open it")
    path.write_text(lines[0])
    assert opened(copy).about(0)["tasks"] == ["open it", "have confidence"]
    path.write_text("confidence: 1")
    assert opened(copy).tasks[0] == ""
    path.unlink()
    assert opened(copy).tasks[0] == ""
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"lang\.txt is no UTF-8 text"):
        opened(copy)


def test_short_trajectories(copy: Path) -> None:
    """None, and one frame: of one there was no command, so the gripper stays as measured."""
    for frames in (0, 1):
        state = numbers(0, 25)[0][:frames]
        change(copy, "obs_dict.pkl", lambda o, s=state: {"full_state": s})
        change(copy, "policy_out.pkl", lambda p: [])
        for picture in (copy / TRAJECTORY).glob("images?/im_*.jpg"):
            if int(picture.stem[3:]) >= frames:
                picture.unlink()
        if not frames:
            for folder in (copy / TRAJECTORY).glob("images?"):
                shutil.move(folder, folder.with_name(f"kept_{folder.name}"))
            episodes = opened(copy)
            assert episodes.lengths[0] == 0
            assert episodes.about(0)["padded_last_action"] is False
            assert episodes.read(0, np.arange(0))["action"].shape == (0, 7)
    episodes = opened(copy)
    action = everything(episodes, 0)[1]
    np.testing.assert_array_equal(action, [[0] * 6 + [np.float32(numbers(0, 25)[0][0, 6])]])


def test_a_second_opening_reads_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(root)

    def fail(*_: object) -> None:
        pytest.fail("a pickle was read again")

    monkeypatch.setattr(bridge_raw.files, "load_pickle", fail)
    second = opened(root)
    assert (second.lengths, second.tasks, second.fingerprint) == (
        first.lengths,
        first.tasks,
        first.fingerprint,
    )


def test_what_it_keeps_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_raw, "KEPT", 2)
    episodes = opened(root)
    for episode in (0, 1, 2, 0, 2, 1):
        everything(episodes, episode)
    assert list(episodes._kept) == [2, 1]


def test_a_trajectory_that_changed_since(copy: Path) -> None:
    episodes = opened(copy)
    change(copy, "obs_dict.pkl", lambda o: {"full_state": o["full_state"][1:]})
    change(copy, "policy_out.pkl", lambda p: p[1:])
    with pytest.raises(DataError, match="has 24 frames now, it had 25"):
        episodes.numbers(0, np.array([0]))


def test_what_it_does_not_recognise(tmp_path: Path) -> None:
    for name in ("empty", "videos/a", "raw/trajectories"):
        (tmp_path / name).mkdir(parents=True)
    assert not BridgeRawConfig.recognises(Folder(tmp_path))
    with pytest.raises(DataError, match=r"has no raw/traj_group\*/traj\*"):
        opened(tmp_path)


def test_the_gripper_in_two_states() -> None:
    """Worked out by hand: 0.5 follows what comes next of 0 and 1, the last of them itself."""
    given = np.array([0.5, 1.0, 0.96, 0.95, 0.3, 0.04, 0.05, 0.99, 0.6], np.float32)
    expected = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0.6], np.float32)
    np.testing.assert_array_equal(binary(given), expected)
    assert binary(given[:0]).shape == (0,)


def test_motion_and_padding() -> None:
    state = np.array([[0, 0, 0, 3.1, 0, 0, 1], [1, 2, 0, -3.1, 0, 0, 0.5]], np.float32)
    expected = np.array([[1, 2, 0, -6.2, 0, 0]], np.float32)
    np.testing.assert_allclose(measured_motion(state), expected, rtol=1e-6)
    np.testing.assert_array_equal(
        with_last(state[:1], state), [state[0], [0, 0, 0, 0, 0, 0, state[0, 6]]]
    )
    np.testing.assert_array_equal(with_last(state[:0], state[1:]), [[0, 0, 0, 0, 0, 0, 0.5]])
    np.testing.assert_array_equal(with_last(state[:0], state[:0]), np.zeros((0, 7)))

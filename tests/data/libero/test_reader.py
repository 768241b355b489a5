"""LIBERO is read upright, each action with the frame that it follows, and never a guess."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from saccade.config import from_dict, to_dict
from saccade.data.episodes import state_groups
from saccade.data.files.folder import Folder
from saccade.data.libero.files import aligned, normalised, words
from saccade.data.libero.reader import Libero, LiberoConfig
from saccade.errors import ConfigError, DataError
from tests.contracts import check_reader
from tests.fixtures.libero import (
    BARS,
    Kind,
    make_actions,
    make_hand,
    make_picture,
    make_states,
    write_libero,
)

SIZE = 16
KINDS: tuple[Kind, ...] = ("original", "rerendered", "no_noops")
DRAWER = "libero_90/KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5"
MILK = "libero_object/pick_up_the_milk_demo.hdf5"
GRIPPER = [1.0] * 12 + [0.0] * 12  # of make_actions(24), in our sense


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each kind. Read only."""
    return {kind: write_libero(tmp_path_factory.mktemp(kind), kind, SIZE) for kind in KINDS}


@pytest.fixture
def copy(roots: dict[str, Path], tmp_path: Path) -> Path:
    """An original data set that may be changed."""
    shutil.copytree(roots["original"], tmp_path / "libero")
    return tmp_path / "libero"


def build(root: Path, **options: Any) -> Libero:
    return LiberoConfig(root=root, **options).build()


def change(path: Path, edit: Callable[[Any], object]) -> None:
    with h5py.File(path, "r+") as file:
        edit(file["data"])


def replace(group: h5py.Group, key: str, value: np.ndarray) -> None:
    del group[key]
    group[key] = value


def test_holds_the_contract_of_readers(roots: dict[str, Path]) -> None:
    check_reader(build(roots["original"]))


@pytest.mark.parametrize(("kind", "shift"), [("original", 1), ("rerendered", 1), ("no_noops", 0)])
def test_every_action_leads_away_from_its_frame(
    roots: dict[str, Path], kind: Kind, shift: int
) -> None:
    data = build(roots[kind])
    assert data.lengths == [length - shift for length in (24, 27, 30, 33, 36, 39)]
    assert data.fps == 20
    frames = np.arange(data.lengths[0])
    seen = data.read(0, frames)
    states = frames + shift  # what the arm was in when the frames were taken
    for view, name in enumerate(BARS):
        pictures = np.stack([make_picture(24, int(k), name, SIZE) for k in states])
        np.testing.assert_array_equal(seen["video"][:, view].permute(0, 2, 3, 1), pictures)
    np.testing.assert_allclose(seen["state"][:, :6], make_hand(24, states), rtol=1e-6)
    np.testing.assert_allclose(seen["action"][:, :6], make_actions(24)[states, :6], rtol=1e-6)
    assert seen["action"][:, 6].tolist() == GRIPPER[shift:]
    np.testing.assert_allclose(seen["state"][:, 6], 1 - states / 24, atol=1e-6)
    assert data.about(0)["alignment"] == ("after" if shift else "before")


def test_what_a_file_says_of_itself(roots: dict[str, Path]) -> None:
    data = build(roots["original"])
    assert data.tasks == ["close the top drawer"] * 3 + ["pick up the milk"] * 3
    assert data.about(2) == {
        "source": f"{DRAWER}: demo_10",
        "scene": "KITCHEN_SCENE10",
        "success": True,
        "alignment": "after",
    }
    assert data.about(3)["scene"] == "libero_object"
    bare = build(roots["no_noops"])
    assert bare.tasks == data.tasks
    assert bare.about(3)["scene"] == "libero_object"


def test_one_suite_or_one_file_can_be_opened(roots: dict[str, Path]) -> None:
    root = roots["original"]
    whole = build(root)
    for part in (root / "libero_object", root / MILK):
        data = build(part)
        assert data.lengths == whole.lengths[3:]
        assert data.about(0)["scene"] == "libero_object"
        last = np.array([data.lengths[2] - 1])
        assert data.read(2, last)["video"].equal(whole.read(5, last)["video"])
    with pytest.raises(DataError, match=r"other_demo\.hdf5 does not exist"):
        build(root / "libero_object" / "other_demo.hdf5")


def test_is_recognised_by_its_files(roots: dict[str, Path], tmp_path: Path) -> None:
    for root in roots.values():
        assert LiberoConfig.recognises(Folder(root))
        assert LiberoConfig.recognises(Folder(next(root.iterdir())))
    (tmp_path / "fold_towel").mkdir()
    (tmp_path / "fold_towel" / "0.hdf5").touch()
    assert not LiberoConfig.recognises(Folder(tmp_path))
    with pytest.raises(DataError, match=r"no <task>_demo\.hdf5"):
        build(tmp_path)


def test_orientations_are_upright_as_stored_and_mirrored(roots: dict[str, Path]) -> None:
    expected = make_picture(24, 4, "eye_in_hand_rgb", SIZE)
    turned = {"upright": expected, "raw": expected[::-1], "rot180": expected[:, ::-1]}
    for orientation, picture in turned.items():
        data = build(roots["original"], orientation=orientation)
        seen = data.pixels(0, "wrist", np.array([3]))[0].permute(1, 2, 0)
        np.testing.assert_array_equal(seen, picture)


def test_pictures_that_were_stored_upright_are_left_so(copy: Path) -> None:
    change(copy / DRAWER, lambda data: data.attrs.modify("macros_image_convention", "opencv"))
    stored = make_picture(24, 4, "agentview_rgb", SIZE)[::-1]
    for orientation, picture in (("upright", stored), ("rot180", stored[::-1, ::-1])):
        seen = build(copy, orientation=orientation).pixels(0, "agentview", np.array([3]))[0]
        np.testing.assert_array_equal(seen.permute(1, 2, 0), picture)
    change(copy / DRAWER, lambda data: data.attrs.modify("macros_image_convention", "d3d"))
    with pytest.raises(DataError, match="macros_image_convention is 'd3d', expected opengl or"):
        build(copy)


def test_compressed_pictures_read_the_same(copy: Path) -> None:
    def compress(data: Any) -> None:
        for demo in data.values():
            for name, chunks in zip(BARS, (True, (1, SIZE, SIZE, 3)), strict=True):
                values = demo[f"obs/{name}"][()]
                del demo[f"obs/{name}"]
                demo.create_dataset(f"obs/{name}", data=values, compression="gzip", chunks=chunks)

    frames = np.array([9, 2, 3, 4, 9])
    before = build(copy).read(0, frames)["video"]
    change(copy / DRAWER, compress)
    assert build(copy).read(0, frames)["video"].equal(before)


@pytest.mark.parametrize(
    "names",
    [("agentview_rgb", "eye_in_hand_rgb"), ("agentview_image", "robot0_eye_in_hand_image")],
)
def test_cameras_have_their_official_names_too(
    roots: dict[str, Path], names: tuple[str, ...]
) -> None:
    assert build(roots["original"], cameras=names).cameras == ("agentview", "wrist")
    assert build(roots["original"], cameras=names[1:]).cameras == ("wrist",)
    with pytest.raises(DataError, match="no camera 'front'; it has agentview, wrist"):
        build(roots["original"], cameras=("front",))


def test_states_are_those_asked_for(roots: dict[str, Path]) -> None:
    frames, states = np.array([5, 0]), np.array([6, 1])
    joints, fingers = np.split(make_states(24)[states], [7], 1)
    hand, width = make_hand(24, states), 1 - states[:, None] / 24
    expected = {
        "eef": [hand, width],
        "joint": [joints, width],
        "eef_joint": [hand, joints, width],
        "openvla": [hand, fingers],
        "joint_fingers": [joints, fingers],
    }
    for state, parts in expected.items():
        data = build(roots["original"], state=state)
        values = data.read(0, frames, ())["state"]
        np.testing.assert_allclose(values, np.concatenate(parts, 1), rtol=1e-6, atol=1e-7)
        assert len(data.state_names) == values.shape[1]
        groups = state_groups(data.state_names)
        size = values.shape[1]
        two = state in ("openvla", "joint_fingers")
        assert groups["gripper"] == ([size - 2, size - 1] if two else [size - 1])
        assert groups.get("rotation") == (None if state.startswith("joint") else [3, 4, 5])


def test_metric_actions_are_metres_and_radians(copy: Path) -> None:
    def overdo(data: Any) -> None:
        data["demo_0/actions"][1] = [1, -1, 0.5, 1, -0.5, 7, 1]

    change(copy / DRAWER, overdo)
    action = build(copy, action="metric").read(0, np.array([0]), ())["action"][0]
    np.testing.assert_allclose(action, [0.05, -0.05, 0.025, 0.5, -0.25, 0.5, 0], rtol=1e-6)


def test_alignment_can_be_said(roots: dict[str, Path]) -> None:
    for kind, alignment, shift in (("original", "before", 0), ("no_noops", "after", 1)):
        data = build(roots[kind], alignment=alignment)
        assert data.lengths[0] == 24 - shift
        action = data.read(0, np.array([3]), ())["action"][0]
        np.testing.assert_allclose(action[:6], make_actions(24)[3 + shift, :6], rtol=1e-6)
        assert data.about(0)["alignment"] == alignment


def test_the_arm_knows_better_than_the_attributes(copy: Path) -> None:
    """A script that observes before the action may write the attributes of one that does not."""

    def delay(data: Any) -> None:
        for demo in data.values():
            length = len(demo["actions"])
            replace(demo, "obs/joint_states", make_states(length)[:-1, :7])

    change(copy / DRAWER, delay)
    data = build(copy)
    assert data.lengths == [24, 27, 30, 32, 35, 38]
    assert [data.about(i)["alignment"] for i in (0, 3)] == ["before", "after"]


def test_without_states_attributes_tell_the_alignment(copy: Path) -> None:
    def forget(data: Any, *attributes: str) -> None:
        for demo in data.values():
            demo.pop("states", None)
        for name in attributes:
            del data.attrs[name]

    change(copy / DRAWER, forget)
    assert build(copy).about(0)["alignment"] == "after"
    with h5py.File(copy / DRAWER) as file:
        names = list(file["data"].attrs)
    change(copy / DRAWER, lambda data: forget(data, *set(names) - {"env_name"}))
    with pytest.raises(ConfigError, match=r"drawer_demo\.hdf5 does not tell.*alignment=before"):
        build(copy)
    assert build(copy, alignment="before").lengths[0] == 24
    change(copy / DRAWER, lambda data: forget(data, "env_name"))
    assert build(copy).about(0)["alignment"] == "before"


def test_an_arm_at_rest_or_of_other_numbers_does_not_tell() -> None:
    moving = np.cumsum(np.full((10, 7), 0.02), 0)
    assert aligned(moving, moving) == "before"
    assert aligned(moving[1:], moving[:-1]) == "after"
    assert aligned(moving[:1].repeat(10, 0), moving[:1].repeat(10, 0)) is None
    assert aligned(moving + 1, moving) is None
    assert aligned(np.full((10, 7), np.nan), moving) is None


@pytest.mark.parametrize(
    ("stem", "text"),
    [
        ("KITCHEN_SCENE3_turn_on_the_stove", "turn on the stove"),
        ("KITCHEN_SCENE10_close_the_top_drawer", "close the top drawer"),
        ("LIVING_ROOM_SCENE2_pick_up_the_butter", "pick up the butter"),
        (
            "pick_up_the_milk_and_place_it_in_the_basket",
            "pick up the milk and place it in the basket",
        ),
    ],
)
def test_names_of_files_are_instructions(stem: str, text: str) -> None:
    assert words(stem) == text


@pytest.mark.parametrize(
    "stored", ["open it", '"open it"', ["open", "it"], ["open it"], list('"open it"'), " open  it "]
)
def test_instructions_are_normalised(stored: str | list[str]) -> None:
    assert normalised(stored) == "open it"


def test_a_demonstration_may_be_empty_or_one_frame_long(copy: Path) -> None:
    def cut(data: Any) -> None:
        for name, rows in (("demo_0", 0), ("demo_2", 1)):
            keys = [*(f"obs/{key}" for key in data[name]["obs"]), *data[name]]
            for key in keys:
                if key != "obs":
                    replace(data[name], key, data[name][key][:rows])
            data[name].attrs["num_samples"] = rows

    change(copy / DRAWER, cut)
    data = build(copy)
    assert data.lengths[:3] == [0, 0, 29]  # no action follows the one frame
    assert "success" not in data.about(0)
    nothing = data.read(0, np.arange(0))
    assert nothing["video"].shape == (0, 2, 3, SIZE, SIZE)
    assert nothing["action"].shape == (0, 7)
    with pytest.raises(DataError, match="outside episode 1, which has 0"):
        data.read(1, np.array([0]))


def drop(key: str) -> Callable[[Any], None]:
    return lambda data: data.__delitem__(f"demo_2/{key}")


def put(key: str, value: np.ndarray) -> Callable[[Any], None]:
    return lambda data: replace(data, f"demo_2/{key}", value)


FAULTS = {
    r"demo_2 has no obs/agentview_rgb": drop("obs/agentview_rgb"),
    r"demo_2 has no obs/ee_states": drop("obs/ee_states"),
    r"demo_2 has no obs/gripper_states": drop("obs/gripper_states"),
    r"demo_2 has no actions": drop("actions"),
    r"demo_2/actions is float64\[27, 6\], expected \[27, 7\]": put("actions", np.zeros((27, 6))),
    r"demo_2/obs/ee_states is float64\[20, 6\], expected \[27, 6\]": put(
        "obs/ee_states", np.zeros((20, 6))
    ),
    r"demo_2/obs/agentview_rgb is float32\[27, 4, 4, 3\]": put(
        "obs/agentview_rgb", np.zeros((27, 4, 4, 3), np.float32)
    ),
    r"demo_2/obs/eye_in_hand_rgb is uint8\[26, 4, 4, 3\], expected \[27, any, any, 3\]": put(
        "obs/eye_in_hand_rgb", np.zeros((26, 4, 4, 3), np.uint8)
    ),
    r"demo_2/dones is uint8\[3\], expected \[27\]": put("dones", np.zeros(3, np.uint8)),
    r"demo_2 has 27 rows, its num_samples is 40": lambda data: data["demo_2"].attrs.modify(
        "num_samples", 40
    ),
    r"data/demo_two is none of demo_0, demo_1": lambda data: data.move("demo_2", "demo_two"),
    r"problem_info is not JSON": lambda data: data.attrs.modify("problem_info", "{"),
    r"env_args is a list": lambda data: data.attrs.modify("env_args", "[]"),
    r"control_freq is 'fast'": lambda data: data.attrs.modify(
        "env_args", json.dumps({"env_kwargs": {"control_freq": "fast"}})
    ),
    r"was recorded at 10 Hz, libero_object.* at 20 Hz": lambda data: data.attrs.modify(
        "env_args", json.dumps({"env_kwargs": {"control_freq": 10}})
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(copy: Path, message: str) -> None:
    change(copy / DRAWER, FAULTS[message])
    with pytest.raises(DataError, match=rf"close_the_top_drawer_demo\.hdf5.*{message}|{message}"):
        build(copy)


def test_what_is_not_asked_for_may_be_missing(copy: Path) -> None:
    change(copy / DRAWER, drop("obs/agentview_rgb"))
    change(copy / DRAWER, drop("obs/joint_states"))
    data = build(copy, cameras=("wrist",))
    assert data.lengths[1] == 26
    with pytest.raises(DataError, match="demo_2 has no obs/joint_states"):
        build(copy, cameras=("wrist",), state="joint")


def test_numbers_that_are_none_are_named(copy: Path) -> None:
    def spoil(data: Any) -> None:
        data["demo_0/actions"][7, 2] = np.nan

    change(copy / DRAWER, spoil)
    data = build(copy)
    data.read(1, np.array([5, 6]), ())
    with pytest.raises(DataError, match=r"demo_0/actions is \[.*nan.*\] in row 7"):
        data.read(0, np.array([5, 6]), ())


def test_broken_files_and_demonstrations_are_skipped_up_to_a_share(copy: Path) -> None:
    change(copy / DRAWER, drop("obs/agentview_rgb"))
    (copy / "libero_object" / "broken_demo.hdf5").write_bytes(b"not HDF5" * 100)
    with pytest.raises(DataError, match=r"broken_demo\.hdf5|demo_2"):
        build(copy)
    with pytest.raises(DataError, match="more than the 1"):
        build(copy, on_error="skip")
    data = build(copy, on_error="skip", most_skipped=0.5)
    assert len(data.lengths) == 5
    assert set(data.skipped) == {f"{DRAWER}: demo_2", "libero_object/broken_demo.hdf5"}
    assert "no obs/agentview_rgb" in data.skipped[f"{DRAWER}: demo_2"]


def test_options_change_the_fingerprint_and_survive_json(roots: dict[str, Path]) -> None:
    config = LiberoConfig(root=roots["original"], cameras=("wrist",))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    choices = [
        {},
        {"cameras": ("wrist",)},
        {"orientation": "raw"},
        {"state": "joint"},
        {"action": "metric"},
        {"alignment": "before"},
    ]
    prints = [build(roots["original"], **options).fingerprint for options in choices]
    assert len(set(prints)) == len(choices)
    assert build(roots["original"]).fingerprint == prints[0]


@pytest.mark.parametrize("stored", [None, "", []])
def test_where_there_is_no_instruction_the_file_name_is_it(copy: Path, stored: object) -> None:
    info = json.dumps({"language_instruction": stored})
    change(copy / DRAWER, lambda data: data.attrs.__setitem__("problem_info", info))
    assert build(copy).tasks[0] == "close the top drawer"


def test_what_is_no_instruction_is_refused(copy: Path) -> None:
    info = json.dumps({"language_instruction": {"en": "open"}})
    change(copy / DRAWER, lambda data: data.attrs.__setitem__("problem_info", info))
    with pytest.raises(
        DataError, match=r"drawer_demo\.hdf5: language_instruction is \{'en': 'open'\}"
    ):
        build(copy)


def test_demonstrations_are_numbered_by_plain_digits(copy: Path) -> None:
    change(copy / DRAWER, lambda data: data.move("demo_0", "demo_\u0663"))
    with pytest.raises(DataError, match="is none of demo_0, demo_1"):
        build(copy)

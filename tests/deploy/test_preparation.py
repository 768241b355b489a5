"""What a policy is shown at work has the same bits as what it was shown in training."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from saccade.data.framed import FramedEpisodes
from saccade.data.libero.reader import LiberoConfig
from saccade.data.transforms import Framing
from saccade.deploy import preparation
from saccade.deploy.preparation import Preparation, check_contract, instruction_of
from saccade.errors import ConfigError, DataError
from saccade.scenes import Scene
from saccade.types import Contract, Crop, Orientation
from tests.deploy.toy import CONTRACT, STATE, ToyScene, frames, picture
from tests.fixtures.libero import BARS, make_hand, make_picture, make_states, write_libero

SIZE = 48
CAMERAS = dict(zip(CONTRACT.cameras, BARS, strict=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LIBERO's files with pictures of 48 pixels. Read only."""
    return write_libero(tmp_path_factory.mktemp("libero"), "original", SIZE)


@pytest.mark.parametrize("orientation", get_args(Orientation))
@pytest.mark.parametrize("crop", get_args(Crop))
@pytest.mark.parametrize("side", [32, SIZE])
def test_frames_are_bit_for_bit_those_of_training(
    root: Path, orientation: Orientation, crop: Crop, side: int
) -> None:
    contract = replace(
        CONTRACT, frame_size=(SIZE, SIZE), image_size=side, crop=crop, orientation=orientation
    )
    episodes = LiberoConfig(root=root, orientation=orientation).build()
    trained = FramedEpisodes(episodes, Framing.named(crop, side))
    prepare = Preparation(contract)
    rows = np.array([0, 3, 7])
    seen = trained.read(0, rows)["video"]
    for t, row in enumerate(rows):
        for view, camera in enumerate(contract.cameras):
            upright = make_picture(24, int(row) + 1, CAMERAS[camera], SIZE)
            assert torch.equal(prepare.frame(camera, upright), seen[t, view])


def test_numbers_are_those_of_training(root: Path) -> None:
    episodes = LiberoConfig(root=root, state="openvla").build()
    contract = replace(CONTRACT, state_names=tuple(reversed(episodes.state_names)))
    hand, fingers = make_hand(24, np.array([6]))[0], make_states(24)[6, 7:]
    values = dict(zip(episodes.state_names, [*hand, *fingers], strict=True)) | {"more": 1.0}
    ours = Preparation(contract).state(values)
    assert torch.equal(ours.flip(0), episodes.read(0, np.array([5]), ())["state"][0])


def test_each_orientation_is_a_turn_of_the_upright_frame() -> None:
    upright = picture(0, 16, 16)
    turned = {"upright": upright, "raw": upright[::-1], "rot180": upright[:, ::-1]}
    for orientation in get_args(Orientation):
        contract = replace(CONTRACT, frame_size=(16, 16), orientation=orientation)
        found = Preparation(contract).frame("agentview", upright).permute(1, 2, 0)
        np.testing.assert_array_equal(found, turned[orientation])


def test_an_observation_is_a_batch_of_one() -> None:
    contract = replace(CONTRACT, history=3)
    prepare = Preparation(contract)
    moments = [prepare.moment(frames, STATE | {"x": float(t)}) for t in range(3)]
    seen = prepare.observation(moments, "open it")
    assert seen["video"].shape == (1, 3, 2, 3, 16, 16)
    assert seen["video"].is_contiguous()
    assert seen["state"].tolist() == [[[t, -0.25, 1.0] for t in (0.0, 1.0, 2.0)]]
    assert seen["text"] == ["open it"]
    blind = Preparation(replace(CONTRACT, cameras=())).moment(frames, STATE)
    assert blind.video.shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (picture(0)[:, :-1], r"uint8\[24, 31, 3\]"),
        (picture(0).astype(np.float32), r"float32\[24, 32, 3\]"),
        (picture(0)[..., :1], r"uint8\[24, 32, 1\]"),
        (torch.zeros(24, 32, 3, dtype=torch.uint8), "Tensor"),
        (None, "NoneType"),
    ],
)
def test_frames_of_another_kind_are_refused(frame: object, found: str) -> None:
    with pytest.raises(DataError, match=f"camera wrist gave {found}.*trained on uint8.24, 32, 3"):
        Preparation(CONTRACT).frame("wrist", frame)


def test_a_state_that_lacks_something_is_refused_before_a_frame_is_drawn() -> None:
    def never(camera: str) -> np.ndarray:
        raise AssertionError(camera)

    prepare = Preparation(CONTRACT)
    with pytest.raises(DataError, match=r"lacks y; .* x, y, gripper, given are gripper, x$"):
        prepare.moment(never, {"x": 0.0, "gripper": 1.0})
    for worst in (np.nan, np.inf, 1e300):
        with pytest.raises(DataError, match=r"the state's y is .*, expected a finite number"):
            prepare.moment(never, STATE | {"y": worst})


@pytest.mark.parametrize("text", ["", "  ", None, 3])
def test_an_instruction_says_something(text: object) -> None:
    with pytest.raises(DataError, match="say what the robot is to do"):
        instruction_of(text)


def test_an_observation_of_other_moments_is_refused() -> None:
    prepare = Preparation(CONTRACT)
    moment = prepare.moment(frames, STATE)
    with pytest.raises(DataError, match="given are 2 moments, the policy was trained on 1"):
        prepare.observation([moment] * 2, "go")
    with pytest.raises(DataError, match="say what the robot is to do"):
        prepare.observation([moment], " ")


@pytest.mark.parametrize("orientation", get_args(Orientation))
@pytest.mark.parametrize("crop", get_args(Crop))
def test_the_round_trip_holds_for_every_contract(orientation: Orientation, crop: Crop) -> None:
    told = check_contract(replace(CONTRACT, orientation=orientation, crop=crop), ToyScene())
    assert told == "round trip through an HDF5 file equal: agentview, wrist, x, y, gripper"


@pytest.mark.parametrize("cameras", [("wrist",), ()])
def test_the_round_trip_holds_for_fewer_cameras(cameras: tuple[str, ...]) -> None:
    told = check_contract(replace(CONTRACT, cameras=cameras), ToyScene())
    assert told.endswith(f"equal: {', '.join([*cameras, 'x', 'y', 'gripper'])}")


def test_a_scene_that_no_libero_file_could_be_of_is_compared_too() -> None:
    contract = replace(CONTRACT, cameras=("corner",))
    assert check_contract(contract, ToyScene(("corner",))).endswith(" file equal: corner")
    with pytest.raises(ConfigError, match="rot180 frames, which only LIBERO's files have"):
        check_contract(replace(contract, orientation="rot180"), ToyScene(("corner",)))


def other(**values: object) -> Scene:
    scene = ToyScene()
    for name, value in values.items():
        setattr(scene, name, value)
    return scene


@pytest.mark.parametrize(
    ("contract", "scene", "found"),
    [
        (CONTRACT, other(cameras=("agentview",)), "lacks cameras wrist of the policy; it has age"),
        (CONTRACT, other(values={"x": 0.0, "y": 1.0}), "lacks state gripper of the policy"),
        (CONTRACT, other(action_names=("x", "y")), "commands x, y, z, .* the scene takes x, y;"),
        (CONTRACT, other(fps=10.0), "trained at 20 commands per second, the scene takes 10;"),
        (replace(CONTRACT, action_unit="metric"), ToyScene(), "are metric, .* action=normalised"),
    ],
)
def test_a_scene_in_which_a_policy_cannot_act_is_refused(
    contract: Contract, scene: Scene, found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        check_contract(contract, scene)


def test_a_gripper_with_another_sense_is_found() -> None:
    scene = ToyScene()
    scene.values["gripper"] = 0.25  # the fingers say 0.75
    with pytest.raises(ConfigError, match=r"scene's gripper is 0\.25, read .* it is 0\.75"):
        check_contract(CONTRACT, scene)


def test_a_path_that_is_not_that_of_training_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "turn", lambda frame, _: frame[::-1].copy())
        with pytest.raises(ConfigError, match=r"agentview: the policy would see another picture"):
            check_contract(CONTRACT, ToyScene())
    prepare = Preparation.frame
    monkeypatch.setattr(Preparation, "frame", lambda *given: prepare(*given) | 1)
    with pytest.raises(ConfigError, match=r"1 grey levels at most, in \d+\.\d% of pixels apart"):
        check_contract(CONTRACT, ToyScene())

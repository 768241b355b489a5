import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade.models.vit import ViTConfig
from saccade.types import Policy
from saccade.vla.openvla import OpenVla
from saccade.vla.pi0 import Pi0
from tests.conftest import Outcome
from tests.vla.small import base

Saccade = Callable[..., Outcome]
OURS = ViTConfig(image_size=32, num_frames=2, tubelet=2, patch=8, dim=24, depth=1, heads=2)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    OURS.build().save_pretrained(tmp_path / "run" / "encoder", OURS)
    return tmp_path / "run"


def test_swap_then_fine_tune_on_a_share_of_the_demonstrations(
    saccade: Saccade, shared_data: Path, tmp_path: Path, encoder: Path
) -> None:
    data, out = shared_data / "lerobot_v3_tiny", tmp_path / "swapped"
    swap = ("vla", "swap", "--base", "small", "--data", data, "--encoder", encoder, "--out", out)
    done = saccade(*swap, "--mode", "add")
    assert done.code == 0, done.err
    assert "add; new: branch; language model" in done.out
    policy = Policy.from_pretrained(out / "policy")
    assert isinstance(policy, OpenVla)
    assert policy.contract.cameras == ("front",)
    assert policy.config.action_names[3:] == ("roll", "pitch", "yaw", "gripper")
    again = saccade(*swap, "--mode", "add")
    assert again.code == 2
    assert "has files in it" in again.err
    one = saccade(*swap, "--mode", "replace-one", "--pictures", 40, "--overwrite")
    assert one.code == 0, one.err
    assert "R2" in one.out
    assert "of 40 pictures" in one.out
    train = ("train", "vla:debug", "--policy", out, "--data", data, "--source.camera", "front")
    tuned = saccade(*train, "--train.samples", 16, "--demos", 0.5, "--out", tmp_path / "tuned")
    assert tuned.code == 0, tuned.err
    assert "demonstrations are learned from (0.5 of them)" in tuned.err
    result = json.loads((tmp_path / "tuned" / "result.json").read_text())
    assert 0 <= result["scores"]["eval/token_accuracy"] <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--encoder": "nowhere"}, "nowhere"),
        ({"--base": "nowhere"}, "hf download"),
        ({"--mode": "keep"}, "keep changes nothing"),
        ({"--encoder": "original", "--mode": "add"}, "--encoder"),
        ({"--camera": "roof"}, "no camera 'roof'"),
        ({"--slot": "7", "--mode": "replace-one"}, "2 towers"),
    ],
)
def test_mistakes_end_in_one_line(
    saccade: Saccade,
    shared_data: Path,
    tmp_path: Path,
    encoder: Path,
    change: dict[str, str],
    message: str,
) -> None:
    options = {
        "--base": "small",
        "--encoder": str(encoder),
        "--mode": "replace",
        "--data": str(shared_data / "lerobot_v3_tiny"),
        "--out": str(tmp_path / "out"),
    } | change
    done = saccade("vla", "swap", *(word for pair in options.items() for word in pair))
    assert done.code in (2, 3, 4)
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_published_folder_is_brought_over(
    saccade: Saccade, shared_data: Path, tmp_path: Path
) -> None:
    folder = base(tmp_path / "base")
    data = shared_data / "lerobot_v3_tiny"
    swap = ("vla", "swap", "--base", folder, "--data", data, "--out", tmp_path / "out")
    done = saccade(*swap)
    assert done.code == 0, done.err
    assert "keep; new: nothing" in done.out
    policy = Policy.from_pretrained(tmp_path / "out" / "policy")
    assert isinstance(policy, OpenVla)
    assert (policy.config.pixels.frame, policy.config.pixels.size) == (96, 28)
    (folder / "tokenizer.json").unlink()
    lost = saccade(*swap, "--overwrite")
    assert lost.code == 4
    assert "--tokenizer" in lost.err


def test_a_small_pi0_sees_two_cameras(
    saccade: Saccade, shared_data: Path, tmp_path: Path, encoder: Path
) -> None:
    data, out = shared_data / "lerobot_v3_tiny", tmp_path / "swapped"
    swap = ("vla", "swap", "--base", "small-pi0", "--data", data, "--encoder", encoder)
    done = saccade(*swap, "--cameras", "front", "wrist", "--mode", "add", "--out", out)
    assert done.code == 0, done.err
    policy = Policy.from_pretrained(out / "policy")
    assert isinstance(policy, Pi0)
    assert policy.contract.cameras == ("front", "wrist")
    assert (policy.contract.chunk, policy.state_size) == (10, 7)
    train = ("train", "vla:pi0_debug", "--policy", out, "--data", data, "--train.samples", 16)
    cameras = ("--source.cameras", "front", "wrist")
    tuned = saccade(*train, *cameras, "--out", tmp_path / "tuned")
    assert tuned.code == 0, tuned.err
    scores = json.loads((tmp_path / "tuned" / "result.json").read_text())["scores"]
    assert scores["eval/action_error"] > 0
    one = saccade(*train, "--source.cameras", "front", "--out", tmp_path / "one")
    assert one.code == 2
    assert "takes 2 cameras" in one.err or "take 2 cameras" in one.err


def test_the_verbs_are_told(saccade: Saccade) -> None:
    assert saccade("vla").code == 2
    assert "swap" in saccade("vla", "--help").out
    assert "there is swap" in saccade("vla", "paint").err
    assert "replace-one" in saccade("vla", "swap", "--help").out

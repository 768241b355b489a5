import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.models.vit import ViTConfig
from saccade.types import Observation, Policy
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
    four = (
        "train",
        "vla:finetune_tiny",
        "--policy",
        out,
        "--data",
        data,
        "--source.camera",
        "front",
    )
    four = (*four, "--train.samples", 32, "--objective.adapt.four-bit")
    rounded = saccade(*four, "--objective.adapt.lora.rank", 2, "--out", tmp_path / "rounded")
    assert rounded.code == 0, rounded.err
    card = (tmp_path / "rounded" / "policy" / "README.md").read_text()
    assert "adapters of rank 2 in language, whose own weights are rounded to 4 bits" in card
    language = Policy.from_pretrained(out / "policy")
    assert isinstance(language, OpenVla)
    assert f"- language: `{language.digests()['language']}`" in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--encoder": "nowhere"}, "nowhere"),
        ({"--base": "nowhere"}, "hf download"),
        ({"--mode": "keep"}, "keep changes nothing"),
        ({"--encoder": "original", "--mode": "add"}, "--encoder"),
        ({"--camera": "roof"}, "no camera 'roof'"),
        ({"--slot": "7", "--mode": "replace-one"}, "2 towers"),
        ({"--towers": "nowhere"}, "small has its own, leave them out"),
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
    pixels = policy.config.pixels  # of 96 x 128 pixels: whole, as OpenVLA's own training data
    assert (pixels.frame, pixels.crop, pixels.size) == (128, "stretch", 28)
    assert (policy.contract.frame_size, policy.contract.crop) == ((96, 128), "stretch")
    assert (policy.contract.image_size, policy.contract.cameras) == (128, ("front",))
    train = ("train", "vla:debug", "--policy", tmp_path / "out", "--data", data)
    train = (*train, "--source.camera", "front", "--train.samples", 8)
    tuned = saccade(*train, "--out", tmp_path / "tuned")
    assert tuned.code == 0, tuned.err
    again = Policy.from_pretrained(tmp_path / "tuned" / "policy")
    assert again.contract == policy.contract
    other = saccade(*train, "--source.crop", "pad", "--out", tmp_path / "other")
    assert other.code == 2
    assert "the policy's frames become squares by 'stretch'; leave it out" in other.err
    (folder / "tokenizer.json").unlink()
    lost = saccade(*swap, "--overwrite")
    assert lost.code == 4
    assert "--tokenizer" in lost.err


def with_statistics(folder: Path) -> Path:
    """Return a published OpenVLA that was fine-tuned on two suites."""
    ends = {"q01": [-2.0] * 7, "q99": [3.0] * 7, "mask": [True] * 6 + [False]}
    found = {name: {"action": ends} for name in ("libero_spatial", "libero_goal")}
    (base(folder) / "dataset_statistics.json").write_text(json.dumps(found))
    return folder


def test_a_published_policy_acts_as_published_without_data(
    saccade: Saccade, tmp_path: Path
) -> None:
    folder, out = with_statistics(tmp_path / "base"), tmp_path / "out"
    swap = ("vla", "swap", "--base", folder, "--out", out)
    done = saccade(*swap, "--mode", "keep", "--statistics", "libero_spatial")
    assert done.code == 0, done.err
    policy = Policy.from_pretrained(out / "policy")
    assert isinstance(policy, OpenVla)
    contract = policy.contract
    assert (contract.cameras, contract.orientation) == (("agentview",), "rot180")
    assert (contract.frame_size, contract.fps, contract.chunk) == ((256, 256), 20.0, 1)
    assert policy.bounds.high.tolist() == [3.0] * 7
    assert policy.config.pixels.frame == 256
    seen = Observation(
        video=torch.zeros(1, 1, 1, 3, 256, 256, dtype=torch.uint8),
        state=torch.zeros(1, 1, 0),
        text=["open the drawer"],
    )
    assert policy.eval().act(seen).shape == (1, 1, 7)


def test_the_range_of_actions_is_that_of_the_statistics_or_of_the_data(
    saccade: Saccade, shared_data: Path, tmp_path: Path
) -> None:
    folder = with_statistics(tmp_path / "base")
    swap = ("vla", "swap", "--base", folder, "--data", shared_data / "lerobot_v3_tiny")
    ranges = []
    for name, more in (("own", ("--statistics", "libero_goal")), ("data", ())):
        done = saccade(*swap, *more, "--out", tmp_path / name)
        assert done.code == 0, done.err
        policy: Any = Policy.from_pretrained(tmp_path / name / "policy")
        ranges.append(policy.bounds.high.tolist())
    assert ranges[0] == [3.0] * 7
    assert ranges[1] != ranges[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--statistics", "libero_10"), "libero_goal, libero_spatial"),
        ((), "give --data"),
        (("--statistics", "libero_goal", "--mode", "replace"), "give --data"),
    ],
)
def test_without_data_only_a_known_policy_can_be_kept(
    saccade: Saccade, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    folder = with_statistics(tmp_path / "base")
    done = saccade("vla", "swap", "--base", folder, "--out", tmp_path / "out", *change)
    assert done.code == 2
    assert message in done.err.splitlines()[-1]
    small = saccade("vla", "swap", "--base", "small", "--out", tmp_path / "out", *change)
    assert small.code in (2, 4)


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


def test_a_comparison_is_told_before_it_is_made(
    saccade: Saccade, shared_data: Path, tmp_path: Path, encoder: Path
) -> None:
    options = ("--data", shared_data / "lerobot_v3_tiny", "--out", tmp_path / "out")
    suite = ("--suite", "metaworld:reach,push", "--trials", 3, "--horizon", 100)
    command = ("vla", "compare", "--base", "small", "small-pi0", *options, "--dry-run")
    ours = f"ours={encoder}"
    done = saccade(*command, "--encoders", ours, "--budget", 640, "--seeds", 2, *suite)
    assert done.code == 0, done.err
    assert "train small-pi0 whole, for 48,000 samples" in done.out
    assert "fine-tune 16 times for 640 samples in batches of 32: original, re-projected" in done.out
    assert "play 120 rollouts in metaworld, 6 by each of 20 players" in done.out
    assert "horizon 100 instead of 500" in done.out
    modes = saccade(*command, "--encoders", ours, "--mode", "add", "replace-one")
    assert "ours (add), ours (replace-one), untrained (add)" in modes.out
    assert not (tmp_path / "out").exists()
    for wrong, told in ((str(encoder), "NAME=RUN"), ("a=original", "NAME=RUN")):
        bad = saccade(*command, "--encoders", wrong)
        assert bad.code == 2
        assert told in bad.err
    taken = saccade(*command, "--encoders", f"original={encoder}")
    assert "name of a row of ours" in taken.err
    recipe = saccade(*command, "--encoders", ours, "--recipe", "two_stream:debug")
    assert "fine-tunes no vision-language-action model" in recipe.err


def test_the_verbs_are_told(saccade: Saccade) -> None:
    assert saccade("vla").code == 2
    assert "swap" in saccade("vla", "--help").out
    assert "there are swap and compare" in saccade("vla", "paint").err
    assert "replace-one" in saccade("vla", "swap", "--help").out

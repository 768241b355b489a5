"""Training to act: what a policy is told of its data, what is refused, and what comes out."""

import json
import os
import shutil
import socket
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade import cli
from saccade.config import from_dict, to_dict
from saccade.data.libero.reader import LiberoConfig
from saccade.data.synthetic_reach import Reach, ReachConfig
from saccade.data.transforms import Augment
from saccade.data.windows import ChunkWindow, TransitionWindow
from saccade.deploy.appearance import check_appearance
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.experiments.acting import (
    ActingTraining,
    PolicyTraining,
    statistics,
    thumbnails,
)
from saccade.experiments.acting_parts import with_encoder
from saccade.models.language import TableLanguageConfig, write_table
from saccade.models.policies.policy import ImitationPolicy
from saccade.models.state_encoder import load_state_encoder
from saccade.objectives.imitation import ImitationConfig
from saccade.objectives.temporal_jepa import TemporalJepa
from saccade.recipes import statevla
from saccade.types import Contract, Observation, Policy
from tests.fixtures.libero import write_libero
from tests.train import toy

CAMERAS = ("agentview", "wrist")
DEBUG = {name: getattr(statevla, f"{name}_debug")() for name in ("phase1", "phase2", "bc")}
LONG = ("phase1", "phase2", "bc_transformer", "phase1_tiny", "phase2_tiny", "bc_tiny")


def opened(training: ActingTraining) -> tuple[Any, Any]:
    """Build the networks and open the data, as a run does before its first step."""
    objective = training.build()
    parts = training.source.open(objective.reads().image_size)
    training.check(objective, parts)
    return objective, training.prepare(objective, parts, lambda _: None)


def changed(training: PolicyTraining, **fields: Any) -> PolicyTraining:
    """Change the config of the policy."""
    objective = training.objective
    assert isinstance(objective, ImitationConfig)
    return replace(training, objective=ImitationConfig(policy=replace(objective.policy, **fields)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each debug recipe; phase 2 over the phase 1 beside it. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    DEBUG["phase1"].run(folder / "phase1")
    with_encoder(DEBUG["phase2"], folder / "phase1").run(folder / "phase2")
    DEBUG["bc"].run(folder / "bc")
    return folder


@pytest.mark.parametrize("name", LONG)
def test_recipes_survive_json_and_deal_nine_to_one(name: str) -> None:
    training = getattr(statevla, name)()
    assert from_dict(json.loads(json.dumps(to_dict(training)))) == training
    assert training.source.cameras == CAMERAS
    assert training.source.shares == (0.9, 0.1, 0.0)
    assert training.source.episodes.state == "joint_fingers"


def test_the_documents_sizes_and_rates() -> None:
    first, second = statevla.phase1(), statevla.phase2()
    assert (first.train.lr, second.train.lr, first.train.batch_size) == (1e-4, 5e-5, 64)
    assert (first.train.weight_decay, first.train.grad_clip) == (0.05, 1.0)
    networks = first.blank()
    assert isinstance(networks, TemporalJepa)
    assert networks.config.steps == first.train.steps
    assert first.sizes(networks)["trained_parameters"] == 7_075_328
    assert networks.encoder.picture == 224
    assert first.image_size() == 128  # as recorded; enlarged in the encoder


def test_phase_2_trains_what_the_documents_say_and_no_encoder(tmp_path: Path) -> None:
    networks = statevla.phase1().blank()
    assert isinstance(networks, TemporalJepa)
    networks.save_exports(tmp_path)
    training = with_encoder(statevla.phase2(), tmp_path)
    sizes = training.sizes(training.blank())
    assert sizes["trained_parameters"] == 2_529_809
    assert sizes["encoder_parameters"] == 695_552 + 5_256_960 + 66_304


def test_statistics_are_those_of_the_training_part_alone() -> None:
    _, parts = opened(DEBUG["phase2"])
    found = statistics(parts.train)
    rows = [parts.train.numbers(i, np.arange(n)) for i, n in enumerate(parts.train.lengths)]
    state = np.concatenate([row[0] for row in rows]).astype(np.float64)
    action = np.concatenate([row[1] for row in rows]).astype(np.float64)
    np.testing.assert_allclose(found.state_mean, state.mean(0), atol=1e-7)
    np.testing.assert_allclose(found.state_std[[0, 1, 3]], state.std(0)[[0, 1, 3]], rtol=1e-5)
    np.testing.assert_allclose(found.action_mean[:2], action.mean(0)[:2], atol=1e-7)
    np.testing.assert_allclose(found.action_std[:2], action.std(0)[:2], rtol=1e-5)
    assert found.action_std[2:6].tolist() == pytest.approx([1e-6] * 4)  # axes that never move
    assert found.state_std[2] == 1  # what is a millimetre off at work stays as near as that
    assert (found.action_mean[6], found.action_std[6]) == (0, 1)
    assert not torch.equal(found.action_mean, statistics(parts.select).action_mean)
    policy = opened(DEBUG["phase2"])[0].policy
    inside = policy.normalise(torch.from_numpy(action).float())
    torch.testing.assert_close(inside[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside[:, :2].std(0, correction=0), torch.ones(2))
    assert set(inside[:, 6].tolist()) == {-1.0, 1.0}


def test_thumbnails_know_cameras_and_which_way_is_up() -> None:
    _, parts = opened(DEBUG["phase2"])
    seen: dict[str, torch.Tensor] = dict(zip(CAMERAS, thumbnails(parts), strict=True))
    video = parts.select.read(0, np.arange(20), CAMERAS)["video"]
    frames = {camera: video[:, i] for i, camera in enumerate(CAMERAS)}
    assert check_appearance(seen, frames).keys() == set(CAMERAS)
    assert not torch.equal(seen["agentview"], seen["wrist"])


def test_a_contract_says_what_the_data_are(tmp_path: Path) -> None:
    root = write_libero(tmp_path / "demos", "no_noops", 24)
    source = replace(
        DEBUG["phase2"].source,
        episodes=LiberoConfig(root=root, state="joint_fingers", orientation="rot180"),
        cameras=("wrist", "agentview"),
        shares=(0.5, 0.5, 0.0),
        crop="centre",
        cache=str(tmp_path / "cache"),
    )
    objective = DEBUG["phase2"].objective
    encoder = replace(statevla.DEBUG_ENCODER, state_size=9)
    condition = replace(objective.policy.condition, encoder=encoder)
    training = changed(replace(DEBUG["phase2"], source=source), condition=condition)
    contract = opened(training)[0].policy.contract
    joints = tuple(f"joint_{i}" for i in range(1, 8))
    assert contract == Contract(
        cameras=("wrist", "agentview"),
        frame_size=(24, 24),
        image_size=32,
        state_names=(*joints, "gripper_left", "gripper_right"),
        action_names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
        fps=20.0,
        crop="centre",
        orientation="rot180",
        action_unit="normalised",
        history=1,
        stride=1,
        chunk=4,
    )
    metric = replace(source, episodes=replace(source.episodes, action="metric"))
    other = opened(replace(training, source=metric))[0].policy.contract
    assert other == replace(contract, action_unit="metric")


class Versioned(Reach):
    """A toy world that says what recorded it."""

    def about(self, episode: int) -> dict[str, Any]:
        return {"versions": {"toy": f"1.{episode // 6}", "maths": "2"}}


@dataclass(frozen=True, kw_only=True)
class VersionedConfig(ReachConfig):
    def build(self) -> Versioned:
        return Versioned(self)


def test_a_contract_names_what_recorded_the_data_and_the_history() -> None:
    source = replace(DEBUG["bc"].source, episodes=VersionedConfig())
    contract = opened(replace(DEBUG["bc"], source=source))[0].policy.contract
    assert contract.origin == ("maths 2", "toy 1.0", "toy 1.1")
    assert (contract.history, contract.stride, contract.chunk) == (2, 2, 4)


def refused(training: ActingTraining, told: str, kind: type[Exception] = ConfigError) -> None:
    with pytest.raises(kind, match=told):
        opened(training)


def test_data_that_do_not_fit_are_refused_with_what_mends_it() -> None:
    policy, state = DEBUG["phase2"], DEBUG["phase1"]
    condition = policy.objective.policy.condition
    for training in (policy, state):
        one = replace(training.source, cameras=("wrist",))
        refused(replace(training, source=one), r"2 cameras, the data give 1 \(wrist\); set source")
        refused(replace(training, augment=Augment(margin=4)), "margin is 4 .* set both to 0")
        slow = replace(training.window, step_seconds=0.1)
        refused(replace(training, window=slow), "a command every 0.05 s")
    wide = replace(condition, encoder=replace(statevla.DEBUG_ENCODER, state_size=9))
    refused(changed(policy, condition=wide), r"9 numbers, the data give 4 .*--data-options state")
    refused(changed(policy, action_names=("x", "gripper")), "2 axes of actions, the data give 7")
    names = ("y", "x", "z", "rx", "ry", "rz", "gripper")
    refused(changed(policy, action_names=names), "the policy commands y, x")
    refused(changed(policy, chunk=5), "chunk of 4, the policy of 1 and 5")
    refused(replace(policy, window=TransitionWindow(gap=4)), "any other from ChunkWindow")
    goal = replace(condition, use="z_and_goal")
    refused(changed(policy, condition=goal), "a policy with a goal learns from TransitionWindow")
    refused(
        replace(state, objective=replace(state.objective, grippers=2)), "set objective.grippers"
    )
    refused(replace(state, objective=replace(state.objective, action_size=4)), "set action_size")
    few = replace(state, eval_samples=1)
    with pytest.raises(ConfigError, match="eval_samples is 1"):
        few.held_out(opened(few)[1])


def test_an_unknown_instruction_is_refused_before_training(tmp_path: Path) -> None:
    write_table(tmp_path / "words.safetensors", {"go to the red square": torch.ones(16)})
    language = TableLanguageConfig(file=tmp_path / "words.safetensors")
    encoder = replace(statevla.DEBUG_ENCODER, language=language)
    objective = replace(DEBUG["phase1"].objective, encoder=encoder)
    refused(replace(DEBUG["phase1"], objective=objective), "blue square", DataError)


def test_no_held_out_sample_is_alone_in_its_batch() -> None:
    training = replace(DEBUG["phase1"], eval_samples=33)
    assert [len(clip["gap"]) for clip in training.held_out(opened(training)[1])] == [32]
    assert [len(c["gap"]) for c in DEBUG["phase2"].held_out(opened(training)[1])] == [32]


def test_phase_1_leaves_a_state_encoder_and_a_verdict(runs: Path) -> None:
    result = json.loads((runs / "phase1" / "result.json").read_text())
    assert result["exports"] == ["state_encoder", "temporal_predictor"]
    assert result["phase_1"]["ready"] is False
    assert "too few" in result["phase_1"]["reasons"][0]
    encoder = load_state_encoder(runs / "phase1")
    fresh = DEBUG["phase1"].build().encoder.state_dict()
    assert any(not torch.equal(value, fresh[k]) for k, value in encoder.state_dict().items())
    assert "state z of width 32" in (runs / "phase1" / "state_encoder" / "README.md").read_text()


@pytest.mark.parametrize("name", ["phase2", "bc"])
def test_a_policy_is_exported_loaded_and_acts(runs: Path, name: str) -> None:
    training = DEBUG[name]
    policy = Policy.from_pretrained(runs / name / "policy")
    _, parts = opened(training)
    window = replace(training.window, every=1)
    clip = window.read(parts.select, np.array([0, 5, 0, 1]), parts.cameras)
    seen = Observation(
        video=clip["video"][None], state=clip["state"][None], text=[str(clip["text"])]
    )
    answers = [policy.act(seen, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*answers)
    assert answers[0].shape == (1, 4, 7)
    assert set(answers[0][..., 6].flatten().tolist()) <= {0.0, 1.0} or name == "bc"
    assert policy.contract.cameras == parts.cameras
    assert isinstance(policy, ImitationPolicy)
    assert torch.equal(policy.reference, thumbnails(parts))
    card = (runs / name / "policy" / "README.md").read_text()
    assert policy.contract.digest() in card
    record = json.loads((runs / name / "experiment.json").read_text())
    assert record["train"]["batch_size"] == training.train.batch_size


def test_phase_2_leaves_the_encoder_as_phase_1_left_it(runs: Path) -> None:
    before = load_state_encoder(runs / "phase1").state_dict()
    policy = Policy.from_pretrained(runs / "phase2" / "policy")
    after = policy.condition.encoder.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    result = json.loads((runs / "phase2" / "result.json").read_text())
    assert result["trained_parameters"] < sum(p.numel() for p in policy.parameters())


def test_phase_2_refuses_other_data_than_those_of_phase_1(runs: Path, tmp_path: Path) -> None:
    """The same cameras the other way round have the same shapes, and would teach nonsense."""
    training = with_encoder(DEBUG["phase2"], runs / "phase1")
    turned = tuple(reversed(training.source.cameras))
    with pytest.raises(ConfigError, match=r"trained on cameras \('agentview', 'wrist'\), these"):
        replace(training, source=replace(training.source, cameras=turned)).run(tmp_path / "run")


def test_a_resumed_phase_2_repeats_the_uninterrupted_one(runs: Path, tmp_path: Path) -> None:
    training = with_encoder(DEBUG["phase2"], runs / "phase1")
    stopped = tmp_path / "stopped"
    shutil.copytree(runs / "phase2", stopped)
    shutil.rmtree(sorted((stopped / "checkpoints").iterdir())[-1])
    shutil.rmtree(stopped / "policy")
    training.run(stopped, resume=True)
    for path in ("metrics.jsonl", "policy/model.safetensors", "policy/config.json"):
        assert (runs / "phase2" / path).read_bytes() == (stopped / path).read_bytes(), path
    with pytest.raises(CheckpointError, match=r"train\.batch_size: saved 8, now 16"):
        replace(training, train=replace(training.train, batch_size=16)).run(stopped, resume=True)


def train_as_rank(rank: int, port: int, folder: Path) -> None:
    """Train phase 1 as torchrun starts it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    raise SystemExit(cli.main(["train", "statevla:phase1_debug", "--out", str(folder)]))


def test_two_processes_train_like_one(runs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = [
        toy.CHILDREN.Process(target=train_as_rank, args=(rank, port, tmp_path)) for rank in (0, 1)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    one, two = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (runs / "phase1", tmp_path)
    )
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for a, b in zip(one, two, strict=True):
        for name in ("eval/loss", "eval/jepa_mse", "eval/effective_rank", "eval/ratio"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), (a["step"], name)
    results = [json.loads((f / "result.json").read_text()) for f in (runs / "phase1", tmp_path)]
    assert results[0]["phase_1"]["reasons"][0] == results[1]["phase_1"]["reasons"][0]


def test_other_cameras_are_another_experiment(runs: Path) -> None:
    turned = replace(DEBUG["bc"].source, cameras=("wrist", "agentview"))
    with pytest.raises(CheckpointError, match="camera: saved"):
        replace(DEBUG["bc"], source=turned).run(runs / "bc", resume=True)


def test_every_training_window_is_of_the_training_part() -> None:
    training = DEBUG["phase2"]
    _, parts = opened(training)
    plan = training.window.plan(parts.train, 0, 0)
    assert Counter(plan[:, 0].tolist()) == dict(enumerate(parts.train.lengths))
    assert len(parts.train.lengths) + len(parts.select.lengths) == 12
    assert set(parts.select.keep).isdisjoint(parts.train.keep)
    assert isinstance(training.window, ChunkWindow)

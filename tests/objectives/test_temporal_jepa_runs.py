"""Runs that collapse, are cut, are resumed, share their work, and what they leave behind."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from saccade.errors import CheckpointError, NumericError
from saccade.models.pretrained import PretrainedConfig
from saccade.models.state_encoder import load_state_encoder, moment
from saccade.models.temporal_predictor import load_temporal_predictor
from saccade.models.vit import ViTConfig
from saccade.objectives import temporal_jepa
from saccade.objectives.temporal_jepa import TemporalJepa
from saccade.train import alarms, engine
from saccade.train.config import TrainConfig
from tests.objectives.transitions import SPREAD, TINY, built, fit, world
from tests.train import toy

# Collapse


def test_collapse_stops_with_advice() -> None:
    objective = built(
        variance_weight=0.0, covariance_weight=0.0, momentum=0.9, steps=500, patience=10
    )
    with pytest.raises(NumericError, match=r"collapsed: at step \d\d .*variance_weight"):
        fit(objective, 60, lr=1e-2)


def test_a_line_is_a_collapse_but_not_of_few_samples() -> None:
    for samples, counted in ((16, 1), (4, 0)):
        objective = built()
        line = torch.linspace(-1, 1, samples)[:, None] * torch.ones(16)
        action = torch.zeros(samples, 3)
        objective.monitor(temporal_jepa.Step(line, line, action, line))
        objective.after_step(1)
        assert int(objective.collapsed) == counted
        objective(world(16))
        objective.after_step(2)
        assert int(objective.collapsed) == 0, "one good update forgives"


def test_looking_does_not_count() -> None:
    objective = built().eval()
    objective(world(16))
    assert objective.spread is None


# What is kept


def test_exports_come_back(tmp_path: Path) -> None:
    objective, clip = fit(built(), 3), world(4)
    objective.set_statistics(torch.rand(3), torch.rand(3) + 1)
    places = objective.save_exports(tmp_path / "run", "# A card")
    assert set(places) == {"state_encoder", "temporal_predictor"}
    encoder = load_state_encoder(tmp_path / "run")
    predictor = load_temporal_predictor(tmp_path / "run")
    step = objective.step(clip)
    z = encoder(moment(clip, 0))
    assert torch.equal(z, step.now)
    assert torch.equal(predictor(z, predictor.normalise(clip["action"][:, 0])), step.predicted)
    with pytest.raises(CheckpointError, match="holds a TemporalPredictor, not the state encoder"):
        load_state_encoder(places["temporal_predictor"])
    with pytest.raises(CheckpointError, match="holds a StateEncoder, not the temporal predictor"):
        load_temporal_predictor(places["state_encoder"])


def test_frozen_networks_stay_out_of_checkpoints(tmp_path: Path) -> None:
    vit = ViTConfig(image_size=16, num_frames=1, tubelet=1, patch=4, dim=12, depth=1, heads=2)
    vit.build().save_pretrained(tmp_path / "vision", vit)
    shape = replace(TINY.encoder, vision=PretrainedConfig(folder=tmp_path / "vision"))
    objective = fit(built(encoder=shape), 1)
    saved = objective.state_dict()
    learned = {name for name, _ in vit.build().named_parameters()}
    assert not {name for name in saved if name.removeprefix("encoder.vision.") in learned}
    other = replace(TINY, encoder=shape).build()
    other.load_state_dict(saved, strict=True)
    clip = world(4)
    assert torch.equal(other(clip)[0], objective(clip)[0])
    vit.build().save_pretrained(tmp_path / "vision", vit)
    with pytest.raises(CheckpointError, match=r"frozen encoder\.vision .*folder .* has changed"):
        replace(TINY, encoder=shape).build().load_state_dict(saved)
    places = objective.save_exports(tmp_path / "run")
    assert torch.equal(
        load_state_encoder(places["state_encoder"])(moment(clip, 0)), objective.step(clip).now
    )


class Worlds:
    """Batches without end."""

    samples_per_epoch = 80

    def batches(self, first_step: int) -> Any:
        while True:
            yield world(8, first_step)
            first_step += 1


def run(folder: Path, samples: int = 48, resume: bool = False) -> engine.Summary:
    config = TrainConfig(
        samples=samples, batch_size=8, eval_every=2, save_every=2, log_every=1, device="cpu"
    )
    clips = [world(8, 100), world(5, 101)]
    objective = built(steps=6)
    return engine.train(
        objective, Worlds(), clips, config, folder, identity={"objective": "o"}, resume=resume
    )


def test_a_run_and_its_resume_are_bit_exact(tmp_path: Path, monkeypatch: Any) -> None:
    whole = run(tmp_path / "whole")
    assert whole.exports.keys() == {"state_encoder", "temporal_predictor"}
    assert not [alarm for alarm in whole.alarms if alarm.severity == "error"]
    rows = [json.loads(r) for r in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    for name in ("jepa_mse", "copy_mse", "shuffled_mse", "rank_share", "covariance_floor", "copy"):
        assert f"eval/{name}" in rows[-1], name
    assert (tmp_path / "whole" / "best" / "state_encoder" / "config.json").is_file()

    follow = TemporalJepa.after_step

    def fail(objective: TemporalJepa, step: int) -> None:
        follow(objective, step)
        if step == 5:
            raise NumericError("cut")

    monkeypatch.setattr(TemporalJepa, "after_step", fail)
    with pytest.raises(NumericError, match="cut"):
        run(tmp_path / "cut")
    monkeypatch.undo()
    run(tmp_path / "cut", resume=True)
    for name in ("metrics.jsonl", "state_encoder/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_no_dead_gradients_and_no_leak() -> None:
    objective = fit(built(), 2)
    assert not alarms.leak(objective, world(8))
    found, numbers = alarms.dead_gradients(objective, world(8), "error")
    assert not found
    assert numbers["gradient/encoder/jepa_mse"] > 0
    assert numbers["gradient/predictor/jepa_mse"] > 0


# Ranks


def rank_of_two(rank: int, port: int, folder: Path) -> None:
    """Write one rank's gradients, averaged as training averages them."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    objective, clip = built(SPREAD), world(8)
    wrapped = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
    mine = {k: v[4 * rank : 4 * rank + 4] for k, v in clip.items()}  # pyright: ignore
    loss, scalars = wrapped(mine)
    loss.backward()
    objective.after_step(1)
    named = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    torch.save([named, {k: float(v) for k, v in scalars.items()}], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one(tmp_path: Path) -> None:
    objective = built(SPREAD)
    loss, scalars = objective(world(8))
    loss.backward()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [
        toy.CHILDREN.Process(target=rank_of_two, args=(rank, port, tmp_path)) for rank in (0, 1)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    for rank in (0, 1):
        gradients, told = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("jepa_variance", "jepa_covariance", "z_std", "z_directions"):
            assert told[name] == pytest.approx(float(scalars[name]), rel=1e-4), name
        for name, p in objective.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-6)

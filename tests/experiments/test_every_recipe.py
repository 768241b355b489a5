"""Every recipe's debug form in one process and in two, whole or sharded, and stopped on the way."""

import importlib
import json
import os
import socket
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

from saccade import sabotage
from saccade.commands.common import load_recipe, recipes
from saccade.errors import ConfigError, Stopped
from saccade.experiments.training import Training
from saccade.experiments.vla import Exchange
from saccade.train.config import TrainConfig
from saccade.train.distributed import join
from saccade.vla.imitation import PretrainedVlaConfig, VlaImitationConfig
from saccade.vla.policy import OPENVLA_LORA, AdaptConfig
from saccade.vla.swap import SwapConfig
from tests.train import toy

TUNED = "vla: adapters that wait, beside a language model in 4 bits"
DEBUG = [*sorted(name for name in recipes() if "debug" in name), TUNED]
WORLDS = {"one": (1, "ddp"), "ddp": (2, "ddp"), "fsdp": (2, "fsdp"), "stopped": (1, "ddp")}
STEPS = 2
LOOSE = {"vjepa2_ac:debug": 0.05}  # dropout of adapters is drawn by each rank for itself


def save_policy(folder: Path) -> None:
    """Leave a policy to be fine-tuned, as ``saccade vla swap`` does."""
    debug: Any = load_recipe("vla:debug")
    policy, _ = Exchange(
        base=debug.objective.policy, swap=SwapConfig(mode="keep"), source=debug.source
    ).run()
    policy.save_pretrained(folder / "policy", policy.config)


def tuned(folder: Path) -> Training:
    """Fine-tune what was left: the projector at once, adapters from the second step on."""
    debug = load_recipe("vla:debug")
    objective = VlaImitationConfig(
        policy=PretrainedVlaConfig(folder=folder / "policy"),
        learn=("projector",),
        adapt=AdaptConfig(lora=replace(OPENVLA_LORA, rank=2), four_bit=True),
        warm_up=1,
    )
    return replace(debug, objective=objective)


def quick(name: str, layout: str, folder: Path) -> Training:
    """Make a few steps of a recipe; 8-bit moments do not shard."""
    training = tuned(folder) if name == TUNED else load_recipe(name)
    loop = replace(
        training.train,
        samples=STEPS * training.train.batch_size,
        layout=layout,
        optimizer="adamw",
        workers=0,
        log_every=1,
        eval_every=STEPS,
        save_every=STEPS,
    )
    return replace(training, train=loop, eval_samples=16)


def run_all(rank: int, world: int, port: int, layout: str, place: Path) -> None:
    """Be one of several ranks that train every recipe, one after the other."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def work() -> None:
        with join("cpu"):
            for name in DEBUG:
                if place.name == "stopped":
                    os.environ[sabotage.VARIABLE] = "step:term@step=1"
                    with pytest.raises(Stopped):
                        quick(name, layout, place.parent).run(place / name)
                    del os.environ[sabotage.VARIABLE]
                quick(name, layout, place.parent).run(place / name, resume="auto")

    toy.exit_as_told(work, place / f"error-{rank}.txt")


def train_everywhere(folder: Path) -> None:
    """Train every recipe in every world, all at once: processes forked from one that imported."""
    load_recipe("vjepa2_ac:debug").build()  # peft takes seconds to import, FSDP a few more
    importlib.import_module("torch.distributed.fsdp")
    save_policy(folder)
    fork, children = get_context("fork"), list[ForkProcess]()
    for key, (world, layout) in WORLDS.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / key).mkdir()
        for rank in range(world):
            args = (rank, world, port, layout, folder / key)
            children.append(fork.Process(target=run_all, args=args))
            children[-1].start()
    for child in children:
        child.join(300)
    raise SystemExit(max(abs(-1 if c.exitcode is None else c.exitcode) for c in children))


def test_two_processes_train_every_recipe_like_one(tmp_path: Path) -> None:
    """One test for all: starting the processes takes longer than what they do."""
    child = toy.CHILDREN.Process(target=train_everywhere, args=(tmp_path,))
    child.start()
    child.join(400)
    places = {key: tmp_path / key for key in WORLDS}
    told = [path.read_text() for place in places.values() for path in place.glob("error-*.txt")]
    assert child.exitcode == 0, told
    for name in DEBUG:
        one = numbers(places["one"] / name)
        for world in ("ddp", "fsdp"):
            two = numbers(places[world] / name)
            assert two.keys() == one.keys(), (name, world)
            for key, value in one.items():
                where = (name, world, key)
                assert two[key] == pytest.approx(value, rel=LOOSE.get(name, 1e-4)), where
        assert left(places["stopped"] / name) == left(places["one"] / name), name


def left(run_dir: Path) -> dict[str, bytes]:
    """Return what a run leaves, but for times: the same bits, stopped and resumed or not."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.name not in ("timing.jsonl", "result.json", ".lock")
        if "step-00000001" not in str(path)
    }


def numbers(run_dir: Path) -> dict[str, Any]:
    """Return losses and gradients of every step, and what the run exported and found suspicious."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    losses = {
        f"{key} of step {record['step']}": record[key]
        for record in records
        for key in ("train/loss", "eval/loss", "grad_norm")
        if key in record
    }
    assert len(losses) == 2 * STEPS + 2
    result = json.loads((run_dir / "result.json").read_text())
    odd = [alarm["name"] for alarm in result["alarms"]]
    return losses | dict.fromkeys([*result["exports"], *odd], 1)


def test_8_bit_moments_are_not_sharded() -> None:
    config = TrainConfig(layout="fsdp", optimizer="adamw8bit")
    with pytest.raises(ConfigError, match="optimizer adamw8bit does not shard; layout must be ddp"):
        config.require_workable(2)

"""Every recipe's debug form in one process and in two, each network whole or sharded."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.commands.common import load_recipe, recipes
from saccade.errors import ConfigError
from saccade.experiments.training import Training
from saccade.train.config import TrainConfig
from saccade.train.distributed import join
from tests.train import toy

DEBUG = sorted(name for name in recipes() if "debug" in name)
WORLDS = {"one": (1, "ddp"), "ddp": (2, "ddp"), "fsdp": (2, "fsdp")}
STEPS = 2
LOOSE = {"vjepa2_ac:debug": 0.05}  # dropout of adapters is drawn by each rank for itself


def quick(name: str, layout: str) -> Training:
    """Make a few steps of a recipe; 8-bit moments do not shard."""
    training = load_recipe(name)
    loop = replace(
        training.train,
        samples=STEPS * training.train.batch_size,
        layout=layout,
        optimizer="adamw",
        workers=0,
        log_every=1,
        eval_every=1,
        save_every=1,
    )
    return replace(training, train=loop, eval_samples=16)


def run_all(rank: int, world: int, port: int, layout: str, place: Path) -> None:
    """Be one of several ranks that train every recipe, one after the other."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def work() -> None:
        with join("cpu"):
            for name in DEBUG:
                quick(name, layout).run(place / name)

    toy.exit_as_told(work, place / f"error-{rank}.txt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train every recipe in every world; all worlds at once."""
    places, children = {}, {}
    for key, (world, layout) in WORLDS.items():
        places[key] = tmp_path_factory.mktemp(key)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children[key] = [
            toy.CHILDREN.Process(target=run_all, args=(rank, world, port, layout, places[key]))
            for rank in range(world)
        ]
        for child in children[key]:
            child.start()
    for key, mine in children.items():
        for child in mine:
            child.join(300)
        told = "".join(path.read_text() for path in places[key].glob("error-*.txt"))
        assert [child.exitcode for child in mine] == [0] * len(mine), (key, told)
    return places


@pytest.mark.parametrize("name", DEBUG)
@pytest.mark.parametrize("world", ["ddp", "fsdp"])
def test_two_processes_train_every_recipe_like_one(
    trained: dict[str, Path], name: str, world: str
) -> None:
    one, two = (
        [
            json.loads(line)
            for line in (trained[key] / name / "metrics.jsonl").read_text().splitlines()
        ]
        for key in ("one", world)
    )
    assert len(one) == len(two) == STEPS + 1
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in ("train/loss", "eval/loss"):
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=LOOSE.get(name, 1e-4)), (key, a["step"])
    results = [
        json.loads((trained[key] / name / "result.json").read_text()) for key in ("one", world)
    ]
    assert results[0]["exports"] == results[1]["exports"]
    assert [alarm["name"] for alarm in results[0]["alarms"]] == [
        alarm["name"] for alarm in results[1]["alarms"]
    ]


def test_8_bit_moments_are_not_sharded() -> None:
    config = TrainConfig(layout="fsdp", optimizer="adamw8bit")
    with pytest.raises(ConfigError, match="optimizer adamw8bit does not shard; layout must be ddp"):
        config.require_workable(2)

"""What it costs to be able to go on: seconds that a checkpoint and a record hold training up.

    python benchmarks/reliability.py --recipe two_stream:strong_tiny --batch-size 32

Each round trains the same steps without either, with checkpoints beside training, with the same
written at once, and with a record (JSONL and TensorBoard) of every step. The difference to the
round's bare run, divided by their number, is what one costs; the share is of a run at its default
settings. Evaluations are not in it. Also: what looking for faults (``sabotage``) costs where none
is asked for, and the share of time that the loop waits for its data.
"""

import json
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from timing import emit

from saccade import sabotage
from saccade.commands.common import load_recipe
from saccade.data.synthetic import SyntheticConfig
from saccade.experiments.training import Training
from saccade.train.config import TrainConfig
from saccade.train.log import Progress

NEVER = 10**9
LOOKS = 12  # points that a step comes by


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time what reliability costs.

    Args:
        recipe: what to train.
        batch_size: samples of a step.
        steps: of each run; the first tenth is not timed.
        every: steps between checkpoints, far more often than anybody would.
        rounds: of all variants, in random order.
        workers: processes that read data.
    """

    recipe: str = "two_stream:strong_tiny"
    batch_size: int = 32
    steps: int = 60
    every: int = 10
    rounds: int = 3
    workers: int = 0


def variants(every: int) -> dict[str, dict[str, Any]]:
    """Name what is compared; the bare run writes nothing but its end."""
    bare = {"save_every": NEVER, "log_every": NEVER, "eval_every": NEVER}
    return {
        "bare": bare,
        "beside": bare | {"save_every": every, "save_async": True},
        "at_once": bare | {"save_every": every, "save_async": False},
        "records": bare | {"log_every": 1, "boards": ("tensorboard",)},
    }


def seconds(training: Training, folder: Path, first: int) -> float:
    """Train; return the time from one step to the last but one."""
    clock: dict[int, float] = {}

    def note(progress: Progress) -> None:
        clock.setdefault(progress.step, time.perf_counter())

    training.run(folder, progress=note)
    return clock[training.train.steps - 1] - clock[first]


def main(options: Options) -> None:
    """Print one JSON line."""
    recipe = load_recipe(options.recipe)
    loop = replace(
        recipe.train,
        samples=options.steps * options.batch_size,
        batch_size=options.batch_size,
        workers=options.workers,
        keep=1,
        device="cpu",
    )
    toy = SyntheticConfig(episodes=20, length=40, image_size=64)
    source = replace(recipe.source, episodes=toy, camera="front")
    recipe = replace(recipe, train=loop, source=source, eval_samples=options.batch_size)
    first, shuffler = options.steps // 10, random.Random(0)
    timed: dict[str, list[float]] = {name: [] for name in variants(options.every)}
    with tempfile.TemporaryDirectory() as place:
        for i in range(options.rounds + 1):
            names = list(timed)
            shuffler.shuffle(names)
            for name in names:
                changed = replace(loop, **variants(options.every)[name])
                folder = Path(place) / f"{name}-{i}"
                found = seconds(replace(recipe, train=changed), folder, first)
                if i:  # the first round warms up
                    timed[name].append(found)
        clock = (Path(place) / "records-1" / "timing.jsonl").read_text().splitlines()
        size = sum(p.stat().st_size for p in (Path(place) / "beside-1/checkpoints").rglob("*"))
    steps = options.steps - 1 - first
    step = median(timed["bare"]) / steps
    default = TrainConfig()
    counts = {"beside": steps // options.every, "at_once": steps // options.every, "records": steps}
    usual = {"beside": default.save_every, "at_once": default.save_every}
    cost = {
        name: median(a - b for a, b in zip(timed[name], timed["bare"], strict=True)) / count
        for name, count in counts.items()
    }
    began = time.perf_counter()
    for _ in range(100_000):
        sabotage.at("step", step=1)
    look = (time.perf_counter() - began) / 100_000
    emit(
        {
            "benchmark": "reliability",
            "recipe": options.recipe,
            "batch": options.batch_size,
            "threads": torch.get_num_threads(),
            "step_seconds": step,
            "checkpoint_megabytes": size / 1e6,
            **{f"seconds_of_one_{name}": value for name, value in cost.items()},
            **{
                f"share_of_{name}_at_default": value / (step * usual.get(name, default.log_every))
                for name, value in cost.items()
            },
            "share_of_fault_points": LOOKS * look / step,
            "data_wait": median(json.loads(line)["data_wait"] for line in clock),
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))

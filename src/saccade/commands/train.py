"""``saccade train``."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from saccade.commands.common import list_recipes, load_recipe, replace_folder, say, with_data
from saccade.config import to_dict
from saccade.errors import ConfigError, Stopped
from saccade.experiments import memory
from saccade.experiments.acting_parts import with_encoder, with_language
from saccade.experiments.pace import cost
from saccade.experiments.training import Training, count
from saccade.experiments.vla import with_policy
from saccade.experiments.world_model import WorldModelTraining
from saccade.train.distributed import rank_and_world
from saccade.train.layout import kept_elsewhere
from saccade.train.log import Screen
from saccade.train.optim import groups, moment_bytes
from saccade.train.sync import Sync, seconds_of

CHOICES = ("no", "yes", "auto")


@dataclass(frozen=True, kw_only=True)
class Command:
    """Pretrain an encoder without action labels; a world model, or a policy, over a frozen one.

    The run folder gets metrics.jsonl, checkpoints and what was trained. Every field of the
    recipe is an option, listed below. Under torchrun each process is one rank.

    Example: saccade train two_stream:strong_tiny --data data/metaworld --out runs/first
    --train.samples 20000

    Example: saccade train statevla:phase1_debug --out runs/phase1

    Args:
        training: the recipe.
        out: run folder.
        data: data set of any format (`saccade data formats`), in place of the recipe's.
        data_options: options of its reader, like state=joint.
        encoder: to see with, in place of the recipe's: a run or what it exported (for phase 2, of
            phase 1), or the folder of a DINOv2, SigLIP or CLIP.
        policy: what to fine-tune, in place of the recipe's: what `saccade vla swap`, or an earlier
            fine-tuning, has left.
        demos: share of the demonstrations to learn from, of every task alike, as 0.2.
        language: vectors of instructions, in place of the recipe's: a table (`saccade data
            language`), or the folder of a CLIP.
        resume: go on with the run in the folder; `--resume auto` begins one where there is none,
            and uses an older checkpoint where the newest is damaged (for scripts that restart).
        allow_change: settings that may differ from those of the run that is resumed, like
            train.lr, or versions.torch.
        sync: keep a copy of the run folder in a bucket (s3://, gs:// or hf://), also when the run
            fails or is told to stop; an empty folder is resumed from there.
        sync_every: time between copies, like 90s, 10min or 1h.
        sync_rate: megabytes a second at most, on average; 0 for no limit.
        shutdown_command: run this when the run has ended (well or not, but not by a signal) and all
            of it is in the bucket, like "sudo poweroff".
        overwrite: delete the run in the folder first.
        dry_run: show the settings and sizes, of a world model the GPU memory too; do nothing.
        estimate: make a few steps on samples of the data, say what memory and time the run takes
            on this machine, and throw them away.
    """

    training: Annotated[Training, tyro.conf.arg(name="")]
    out: Path
    data: str | None = None
    data_options: tuple[str, ...] = ()
    encoder: Path | None = None
    policy: Path | None = None
    demos: float | None = None
    language: Path | None = None
    resume: Literal["no", "yes", "auto"] = "no"
    allow_change: tuple[str, ...] = ()
    sync: str | None = None
    sync_every: str = "10min"
    sync_rate: float = 0.0
    shutdown_command: str = ""
    overwrite: bool = False
    dry_run: bool = False
    estimate: bool = False


def main(args: list[str]) -> int:
    """Train, or list the recipes where none is named."""
    if not args or args[0].startswith("-"):
        print("usage: saccade train RECIPE --out FOLDER [--data PATH] [--FIELD VALUE ...]")
        print("       saccade train RECIPE --help lists every field; RECIPE may be a file: YAML or")
        print("       JSON with a recipe and changes, or a run's experiment.json")
        print("Example: saccade train two_stream:strong_tiny --data data/metaworld --out runs/a\n")
        list_recipes()
        return 0 if args and args[0] in ("-h", "--help") else 2
    command = tyro.cli(
        partial(Command, training=load_recipe(args[0])),
        args=with_resume(args[1:]),
        prog=f"saccade train {args[0]}",
    )
    training = resolved(command)
    if command.dry_run or command.estimate:
        if command.dry_run:
            describe(training)
        if command.estimate:
            print(cost(training, say).told(training))
        return 0
    first_rank = rank_and_world()[0] == 0
    if isinstance(training, WorldModelTraining):
        memory.check(training, say)
    if command.overwrite and first_rank:
        replace_folder(command.out, "experiment.json")
    sync = synced(command, first_rank)
    with shutting_down(command.shutdown_command if first_rank else "", sync):
        result = training.run(
            command.out,
            resume="auto" if command.resume == "auto" else command.resume == "yes",
            allow_change=command.allow_change,
            progress=Screen(sys.stderr) if first_rank else None,
            report=say,
            sync=sync,
        )
    if first_rank:
        scores = result["scores"]
        exports = ", ".join(f"{name}: {command.out / name}" for name in result["exports"])
        print(
            f"{result['samples']} samples; held-out loss {scores['eval/loss']:.4g}, "
            f"{scores['eval/ratio']:.2f} x that of the {result['baseline']} baseline; "
            f"{len(result['alarms'])} alarms; {exports}"
        )
    return 0


def resolved(command: Command) -> Training:
    """Return the recipe with what the command puts in its place.

    Raises:
        ConfigError: the recipe has no place for it.
    """
    training = with_data(command.training, command.data, command.data_options)
    if command.encoder is not None:
        training = with_encoder(training, command.encoder)
    if command.language is not None:
        training = with_language(training, command.language)
    if command.policy is not None:
        training = with_policy(training, command.policy)
    if command.demos is not None:
        training = replace(training, source=replace(training.source, demos=command.demos))
    return training


def synced(command: Command, first_rank: bool) -> Sync | None:
    """Return what keeps the copy in a bucket, on the first rank.

    Raises:
        ConfigError: a command would shut down a machine whose run is nowhere else.
    """
    if command.shutdown_command and command.sync is None:
        raise ConfigError("--shutdown-command waits for a copy; name its place with --sync")
    every = seconds_of(command.sync_every)
    if command.sync is None or not first_rank:
        return None
    return Sync(command.out, command.sync, every, command.sync_rate, say)


@contextmanager
def shutting_down(command: str, sync: Sync | None) -> Iterator[None]:
    """Run a command after the block, if all is safe elsewhere and nobody asked for a stop."""
    try:
        yield
    except Stopped:
        command = ""
        raise
    finally:
        if command and sync is not None and sync.complete:
            say(f"all of the run is in {sync.target}; running: {command}")
            subprocess.run(command, shell=True, check=False)
        elif command:
            say(f"not all of the run is in its bucket, so this is not run: {command}")


def with_resume(args: list[str]) -> list[str]:
    """Read a bare ``--resume`` as ``--resume yes``."""
    return [
        word
        for arg, after in zip(args, [*args[1:], ""], strict=True)
        for word in ([arg, "yes"] if arg == "--resume" and after not in CHOICES else [arg])
    ]


def describe(training: Training) -> None:
    """Print the resolved settings and the sizes, without touching data or disk."""
    objective = training.blank()
    sizes = training.sizes(objective)
    print(json.dumps(to_dict(training), indent=2))
    print(
        f"would train {sizes['trained_parameters']:,} parameters "
        f"({sizes['encoder_parameters']:,} in the encoder) for "
        f"{training.train.steps:,} steps of {training.train.batch_size} samples"
    )
    decay, rest = groups(objective, training.train.weight_decay)
    print(
        f"weight decay {decay['weight_decay']:g} on {count(decay['params']):,} of them, in "
        f"{len(decay['params'])} matrices; none on {count(rest['params']):,}, in "
        f"{len(rest['params'])} biases, norms, embeddings and tokens"
    )
    elsewhere, train = kept_elsewhere(objective), training.train
    learned = (*decay["params"], *rest["params"])
    size = sum(p.nbytes for p in objective.parameters() if p not in elsewhere)
    size += sum(moment_bytes(p.numel(), train.optimizer) for p in learned)
    print(
        f"a checkpoint takes {size / 1e6:,.1f} MB of disk; {train.keep + 2} of them are there at "
        "most at once, the best and one that is being written included"
    )
    if isinstance(training, WorldModelTraining):
        print(memory.table(memory.describe(training)))

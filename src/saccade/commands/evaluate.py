"""``saccade evaluate``."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade import progress
from saccade.commands import evaluate_offline
from saccade.commands.common import command_line, data_set, replace_folder
from saccade.commands.evaluate_offline import Offline
from saccade.data.passes.shards import Shard
from saccade.errors import ConfigError
from saccade.evals import protocols, statistics, success
from saccade.evals.players import ReplayMeanConfig
from saccade.evals.protocols import Protocol
from saccade.evals.rollout_workers import Limits
from saccade.evals.rollouts import PlayerConfig
from saccade.experiments import success_rates
from saccade.experiments.evaluating import Evaluation, Played
from saccade.experiments.suites import PLAIN, player_named, suite_named

__all__ = ["Compare", "Offline", "Power", "Rollouts", "main"]
USAGE = """usage: saccade evaluate RUN|ws://HOST:PORT|random|nothing|expert --suite S --out F
       saccade evaluate offline RUN
       saccade evaluate compare FOLDER FOLDER
       saccade evaluate power --rate 0.7 --trials 500

  RUN ...   rollouts in simulation: success rates with intervals, beside floors; one page
  offline   commands beside those of held-out demonstrations, axis by axis; no simulator
  compare   two evaluations on the rollouts in common: McNemar's test, the difference's interval
  power     how many trials show a difference, and what difference some trials show

Suites: libero_spatial, libero_object, libero_goal, libero_10, libero_90, metaworld:TASK,TASK.
saccade evaluate RUN --help lists all options; compare --help and power --help theirs.
Example: saccade evaluate runs/bc --suite libero_object --trials 10 --workers 2 --out
runs/bc_object"""
FLOORS = ("nothing", "random")
INCOMPLETE = 3


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Let a policy act in a suite, beside floors on the same initial states.

    Rollouts are kept as they end: after a kill, --resume plays the missing ones. The same command
    gives the same outcomes for any number of workers.

    Example: saccade evaluate runs/bc --suite libero_object --protocol lerobot --workers 2
    --videos 2 --out runs/bc_object

    Args:
        player: a run, a policy's folder, ws://HOST:PORT, or random, nothing, expert.
        suite: libero_spatial, _object, _goal, _10, _90, or metaworld:TASK,TASK.
        out: folder of rollouts.jsonl, results.json and report.html.
        name: what the player is called in tables; by default its folder.
        protocol: openvla, lerobot, openpi, bc or metaworld; by default LeRobot's, or Meta-World's.
        tasks: numbers of tasks; none means all.
        trials: rollouts of each task, in place of the protocol's.
        initial_states: those of the trials, such as 0:10 or 3 7; none means the first ones.
        seeds: repetitions of each trial, with other random numbers.
        floors: nothing, random, replay-mean; give --floors alone for none.
        floor_trials: initial states that floors play; 0 takes all.
        demonstrations: data set whose mean actions replay-mean repeats.
        data_options: options of its reader, like action=metric.
        horizon: steps of the policy, in place of the protocol's.
        settle: steps in which the scene settles first, in place of the protocol's.
        execute: actions of a chunk before the policy is asked again; 0 takes all.
        ensemble: exponential weight of averaging overlapping chunks.
        env_seed: of the simulator, in place of the protocol's.
        policy_seed: of the policy, in place of the protocol's.
        chunk: actions that a server answers with that does not say so itself.
        device: cpu, cuda, or auto.
        workers: processes, one simulator each.
        videos: successes, and failures, to film.
        assets: folder or archive of LIBERO's meshes and textures.
        against: folders of other evaluations, to compare with.
        shard: play only a share of the rollouts, like 0/4 on the first of four machines, into the
            same --out; then the command without --shard takes them all and writes the results.
        limits: seconds after which a worker is taken to hang.
        resume: go on with the evaluation in the folder.
        overwrite: delete the evaluation in the folder first.
        dry_run: say what would be played, and do nothing.
    """

    player: tyro.conf.Positional[str]
    suite: str
    out: Path
    name: str = ""
    protocol: str = ""
    tasks: tuple[int, ...] = ()
    trials: int | None = None
    initial_states: tuple[str, ...] = ()
    seeds: int = 1
    floors: tuple[Literal["nothing", "random", "replay-mean"], ...] = FLOORS
    floor_trials: int = 0
    demonstrations: str = ""
    data_options: tuple[str, ...] = ()
    horizon: int | None = None
    settle: int | None = None
    execute: int | None = None
    ensemble: float | None = None
    env_seed: int | None = None
    policy_seed: int | None = None
    chunk: int | None = None
    device: str = "cpu"
    workers: int = 1
    videos: int = 0
    assets: Path | None = None
    against: tuple[Path, ...] = ()
    shard: str = ""
    limits: Limits = field(default_factory=Limits)
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two evaluations on the rollouts that both have played.

    Example: saccade evaluate compare runs/bc_object runs/flow_object

    Args:
        folders: two folders of saccade evaluate.
    """

    folders: tyro.conf.Positional[tuple[Path, Path]]


@dataclass(frozen=True, kw_only=True)
class Power:
    """Say how many trials show a difference, or what difference a number of trials shows.

    For two policies on the same rollouts, McNemar's test at 5 %.

    Example: saccade evaluate power --rate 0.7 --trials 500

    Example: saccade evaluate power --rate 0.7 --difference 0.05

    Args:
        rate: of the first policy.
        difference: to the second; above and below are both answered.
        trials: of each policy, all tasks together.
        power: probability that a difference that is there is seen.
        phi: correlation of the two on the same rollouts; 0 asks for the most trials.
    """

    rate: float
    difference: float | None = None
    trials: int | None = None
    power: float = 0.8
    phi: float = 0.0


def main(args: list[str]) -> int:
    """Evaluate in one of the modes."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "offline":
        return evaluate_offline.main(args[1:])
    if args[0] == "compare":
        return _compare(tyro.cli(Compare, args=args[1:], prog="saccade evaluate compare"))
    if args[0] == "power":
        return _power(tyro.cli(Power, args=args[1:], prog="saccade evaluate power"))
    return _rollouts(tyro.cli(Rollouts, args=args, prog="saccade evaluate"), args)


def _rollouts(command: Rollouts, args: list[str]) -> int:
    if command.resume and command.overwrite:
        raise ConfigError("--resume goes on and --overwrite begins again; give one of them")
    evaluation = _evaluation(command)
    jobs = evaluation.jobs()
    if command.dry_run:
        protocol, suite = evaluation.protocol, evaluation.suite
        print(
            f"would play {len(jobs):,} rollouts in {suite.name}, {len(evaluation.keys()):,} of "
            f"them by {evaluation.name}, at most {protocol.horizon(suite.name)} steps each; "
            f"protocol {protocol.title}"
        )
        return 0
    if command.shard:
        return shard(evaluation, command)
    if command.overwrite:
        replace_folder(command.out, success_rates.SETTINGS)
    results = evaluation.run(
        command.out, command=command_line("evaluate", args), resume=command.resume, report=Line()
    )
    show(results, command.out)
    lost = len(results["crashed"]) + results["missing"]
    if lost:
        print(
            f"error[{INCOMPLETE}]: {success.count_of(lost)} of {results['asked']:,} crashed or "
            "are missing, see the alarms; give --resume to try them again",
            file=sys.stderr,
        )
    return INCOMPLETE if lost else 0


def shard(evaluation: Evaluation, command: Rollouts) -> int:
    """Play the share of one machine.

    Raises:
        ConfigError: the folder was to be deleted, which holds what other machines play.
    """
    if command.overwrite:
        raise ConfigError("--overwrite would delete what other shards have played; leave it out")
    share = Shard.parse(command.shard)
    crashed = evaluation.run_shard(command.out, share, Line())
    print(
        f"shard {share} is done, {success.count_of(crashed)} crashed; when all are, give the same "
        "command without --shard"
    )
    return INCOMPLETE if crashed else 0


def _evaluation(command: Rollouts) -> Evaluation:
    suite = suite_named(command.suite, command.assets)
    protocol = _protocol(command, suite.name)
    called, player = player_named(command.player, protocol, command.device)
    return Evaluation(
        suite=suite,
        name=command.name or called,
        player=player,
        protocol=protocol,
        tasks=command.tasks,
        initial_states=numbers(command.initial_states),
        seeds=command.seeds,
        floors={name: _floor(name, command) for name in command.floors if name != called},
        floor_trials=command.floor_trials,
        workers=command.workers,
        videos=command.videos,
        limits=command.limits,
        against=command.against,
    )


def _protocol(command: Rollouts, suite: str) -> Protocol:
    """Return the protocol with what the command changes of it."""
    from dataclasses import replace

    usual = "metaworld" if suite.startswith("metaworld") else "lerobot"
    found = protocols.named(command.protocol or usual)
    states = numbers(command.initial_states)
    if states and command.trials not in (None, len(states)):
        raise ConfigError(
            f"--trials {command.trials} and {len(states)} --initial-states do not agree; give one"
        )
    pictures = found.pictures
    if command.chunk is not None:
        pictures = replace(pictures, chunk=command.chunk)
    return replace(found, pictures=pictures).changed(
        suite,
        horizon=command.horizon,
        trials=len(states) or command.trials,
        settle=command.settle,
        execute=command.execute,
        ensemble=command.ensemble,
        env_seed=command.env_seed,
        policy_seed=command.policy_seed,
    )


def _floor(name: str, command: Rollouts) -> PlayerConfig:
    if name != "replay-mean":
        return PLAIN[name]()
    if not command.demonstrations:
        raise ConfigError(
            "replay-mean repeats the mean actions of demonstrations; give --demonstrations DATA"
        )
    return ReplayMeanConfig(data=data_set(command.demonstrations, command.data_options))


def numbers(words: Sequence[str]) -> tuple[int, ...]:
    """Read numbers and ranges, whose end is left out: ``0:10 12``.

    Raises:
        ConfigError: a word is neither.
    """
    found: list[int] = []
    for word in words:
        first, colon, end = word.partition(":")
        if (
            not first.isdecimal()
            or (colon and not end.isdecimal())
            or (colon and int(end) <= int(first))
        ):
            raise ConfigError(f"--initial-states {word} is neither a number nor a range as 0:10")
        found += range(int(first), int(end)) if colon else [int(first)]
    return tuple(found)


class Line:
    """Progress on one line of a terminal, or a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, played: Played) -> None:
        """Show how far the evaluation is, and how well it goes."""
        terminal, last = sys.stderr.isatty(), played.done == played.total
        if not last and played.seconds - self._last < (0 if terminal else progress.RELOG):
            return
        self._last = played.seconds
        rate = played.fresh / max(played.seconds, 1e-9)
        text = progress.line("evaluating", played.done, played.total, "rollouts", rate)
        text += f", {played.name} succeeded in {played.successes:,} of {played.trials:,}"
        head, end = ("\r\x1b[2K", "\n" if last else "") if terminal else ("", "\n")
        print(f"{head}{text}", end=end, file=sys.stderr, flush=True)


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the rates beside the floors, the verdict, and where the report is."""
    table = Table("task", header_style="bold")
    floors = list(results["floors"])
    for name in (results["name"], *floors):
        table.add_column(name, justify="right")
    for row in results["tasks"]:
        table.add_row(
            row["instruction"], _cell(row["rate"]), *(_cell(row["floors"][f]) for f in floors)
        )
    table.add_section()
    ends = (results["floors"][floor]["overall"] for floor in floors)
    table.add_row("all tasks", _cell(results["overall"]), *map(_cell, ends))
    columns = os.environ.get("COLUMNS")
    width = int(columns) if columns else None if sys.stdout.isatty() else 110
    console = Console(width=width, highlight=False, markup=False)  # [text] of errors is text
    console.print(table)
    console.print(f"\nVerdict: {results['verdict']['sentence']}")
    for detail in results["verdict"]["details"]:
        console.print(detail)
    for alarm in results["alarms"]:
        told = f"Alarm, {alarm['name']} ({alarm['where']}): {alarm['detail']}"
        console.print(told, soft_wrap=True)  # so that scripts can find what broke
    for other in results["against"]:
        found = {name: other["compared"][name] for name in success.Paired._fields}
        told = success.told(success.Paired(**found))
        console.print(f"Beside {other['name']}: {told}.")
    print(f"report: {(folder / 'report.html').resolve()}")


def _cell(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    value, low, high = (f"{100 * found[key]:.0f}" for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def _compare(command: Compare) -> int:
    first, second = (success_rates.load(folder) for folder in command.folders)
    found = success.compare(first.outcomes, second.outcomes)
    names = [other.settings["name"] for other in (first, second)]
    if names[0] == names[1]:
        names = [str(other.folder) for other in (first, second)]
    for name, other in zip(names, (first, second), strict=True):
        shared = first.outcomes.keys() & second.outcomes.keys()
        rate = success.rate(other.outcomes[key] for key in sorted(shared))
        print(f"{name}: {success.said(rate)}")
    print(f"{names[0]} minus {names[1]}: {success.told(found)}")
    for difference in success_rates.differences(first.settings, second.settings):
        print(f"not alike: {difference}")
    if found.low <= 0 <= found.high or found.p >= success.LEVEL:
        print("No difference is shown.")
    return 0


def _power(command: Power) -> int:
    if (command.difference is None) == (command.trials is None):
        raise ConfigError("give --difference to learn the trials, or --trials to learn the rest")
    how = {"power": command.power, "phi": command.phi}
    if command.difference is not None:
        sides = {command.rate + sign * command.difference for sign in (1, -1)}
        inside = sorted(side for side in sides if 0 <= round(side, 12) <= 1)
        if not inside:
            raise ConfigError(
                f"--rate {command.rate} with --difference {command.difference} leaves 0 to 1"
            )
        for side in inside:
            count = statistics.trials_needed(command.rate, min(max(side, 0), 1), **how)
            print(f"{command.rate:.1%} from {side:.1%}: {count:,} trials of each policy")
        return 0
    assert command.trials is not None
    seen = statistics.visible(command.rate, command.trials, **how)
    for found in seen:
        word = "above" if found.other > found.rate else "below"
        print(f"{command.trials:,} trials tell {found.rate:.1%} from {found.other:.1%} and {word}")
    if not seen:
        print(f"{command.trials:,} trials tell {command.rate:.1%} from no other rate")
    return 0

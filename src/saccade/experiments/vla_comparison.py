"""One vision-language-action model with several pairs of eyes, on equal budgets and equal keys.

    base          the model before all of this, as it is
    original      its own towers and projector, fine-tuned as all the others are
    re-projected  its own towers with a new projector: the control
    ENCODER       an encoder in the place of all towers, with a new projector (or in another mode)
    untrained     the first of these encoders, of random weights: the floor

All are fine-tuned on the same demonstrations in the same order, asked about the same held-out
moments, and let loose on the same initial states. What is finished is kept: the same command goes
on where it was stopped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from saccade.checkpoint import CONFIG, read_record, write_atomic
from saccade.config import Config, from_dict, to_dict
from saccade.errors import ConfigError
from saccade.evals.players import NothingConfig, PolicyConfig, RandomConfig
from saccade.evals.protocols import Protocol
from saccade.evals.rollouts import PlayerConfig
from saccade.experiments import vla_findings
from saccade.experiments.evaluating import Evaluation, Played
from saccade.experiments.parallel import default_jobs, train_all
from saccade.experiments.source import Report, SourceConfig
from saccade.experiments.training import Training, with_budget
from saccade.experiments.vla import Exchange, VlaTraining, with_policy
from saccade.models.pretrained import PretrainedConfig
from saccade.report.results import RESULTS
from saccade.report.vla_page import write_vla_report
from saccade.scenes import Suite
from saccade.train.checkpoint import lock, require_same
from saccade.types import Encoder
from saccade.vla.imitation import PretrainedVlaConfig
from saccade.vla.policy import VlaPolicy
from saccade.vla.swap import Mode, SwapConfig

SETTINGS = "comparison.json"
SWAPPED = "swap.json"  # written last
BASE, ORIGINAL, CONTROL, UNTRAINED = "base", "original", "re-projected", "untrained"
FLOORS = "floors"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose eyes are exchanged.

    Args:
        name: what it is called.
        policy: where its weights come from.
        training: trains all of it first, where these are fresh.
    """

    name: str
    policy: Config[VlaPolicy]
    training: VlaTraining | None = None


class Arm(NamedTuple):
    """One pair of eyes."""

    name: str
    swap: SwapConfig


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Where, and how often, the tuned policies act.

    Args:
        suite: opens scenes.
        protocol: how success is measured.
        tasks: numbers of tasks of the suite; none means all.
        initial_states: of the trials; none means the first ones.
        workers: processes.
    """

    suite: Suite
    protocol: Protocol
    tasks: tuple[int, ...] = ()
    initial_states: tuple[int, ...] = ()
    workers: int = 1

    def of(self, name: str, player: PlayerConfig, **floors: PlayerConfig) -> Evaluation:
        """Return the evaluation of one player."""
        return Evaluation(
            suite=self.suite,
            name=name,
            player=player,
            protocol=self.protocol,
            tasks=self.tasks,
            initial_states=self.initial_states,
            floors=floors,
            workers=self.workers,
        )


@dataclass(frozen=True, kw_only=True)
class VlaComparison:
    """Models, times eyes, times seeds.

    Args:
        models: whose eyes are exchanged.
        encoders: what they are exchanged for, by name.
        modes: how; several make several rows of each encoder.
        frames: what an encoder of clips is shown, as ``SwapConfig`` has it.
        stride: see there.
        keep_grid: see there.
        tuning: the fine-tuning; its source says which data, and which share of them.
        samples: of each fine-tuning; 0 keeps the recipe's own.
        seeds: fine-tunings of each pair of eyes, which differ in the order of samples and where
            adapters start, not in the base nor in new projectors; a claim about them needs three.
        rollouts: None leaves success out.
        pictures: frames that a ``replace_one`` is fitted on.
        device: that the policies act on.
    """

    models: tuple[Model, ...]
    encoders: Mapping[str, Config[Encoder]]
    modes: tuple[Mode, ...] = ("replace",)
    frames: Literal["repeat", "history"] = "repeat"
    stride: int = 1
    keep_grid: bool = False
    tuning: VlaTraining
    samples: int = 0
    seeds: int = 1
    rollouts: Rollouts | None = None
    pictures: int = 2000
    device: str = "cpu"

    def check(self) -> None:
        """Refuse what is no comparison.

        Raises:
            ConfigError: it says what to change.
        """
        names = [model.name for model in self.models]
        if not names or len(set(names)) < len(names) or FLOORS in names:
            raise ConfigError(f"models need names of their own, not {names}")
        if not self.encoders:
            raise ConfigError("there is no encoder to compare with; give --encoders NAME=RUN ...")
        taken = {BASE, ORIGINAL, CONTROL, UNTRAINED, FLOORS} & self.encoders.keys()
        if taken:
            raise ConfigError(f"{min(taken)} is the name of a row of ours; call the encoder else")
        if "keep" in self.modes or not self.modes:
            raise ConfigError("modes are replace, replace-one or add; original is always there")
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}; at least one fine-tuning is needed")

    def arms(self) -> list[Arm]:
        """List the pairs of eyes, the control second."""
        found = [
            Arm(ORIGINAL, SwapConfig(mode="keep")),
            Arm(CONTROL, SwapConfig(mode="replace")),
        ]
        several = len(self.modes) > 1
        for name, encoder in (*self.encoders.items(), *self.untrained().items()):
            for mode in self.modes:
                called = f"{name} ({mode.replace('_', '-')})" if several else name
                found.append(Arm(called, self._swap(mode, encoder)))
        return found

    def _swap(self, mode: Mode, encoder: Config[Encoder]) -> SwapConfig:
        return SwapConfig(
            mode=mode,
            encoder=encoder,
            frames=self.frames,
            stride=self.stride,
            keep_grid=self.keep_grid and mode == "replace",
        )

    def untrained(self) -> dict[str, Config[Encoder]]:
        """Return the first encoder that is a run's, of random weights: the floor."""
        for encoder in self.encoders.values():
            if isinstance(encoder, PretrainedConfig):
                return {UNTRAINED: from_dict(read_record(encoder.folder)["model"])}
        return {}

    def seen_before(self) -> list[str]:
        """Name encoders whose training may have seen demonstrations that are held out here."""
        source = self.tuning.source
        found = []
        for name, encoder in self.encoders.items():
            record = getattr(encoder, "folder", Path()).parent / "experiment.json"
            if not record.is_file():
                continue
            other = from_dict(json.loads(record.read_text())).source
            dealt = [(one.shares[0], one.split_seed, one.held_out_tasks) for one in (source, other)]
            if place_of(source) == place_of(other) and dealt[0] != dealt[1]:
                found.append(name)
        return found

    def plan(self) -> list[str]:
        """Say what would be done."""
        train, arms = self.tuning.train, self.arms()
        samples = self.samples or train.samples
        runs = len(self.models) * len(arms) * self.seeds
        said = [
            f"train {model.name} whole, for {model.training.train.samples:,} samples"
            for model in self.models
            if model.training is not None
        ]
        said.append(
            f"fine-tune {runs} times for {samples:,} samples in batches of {train.batch_size}: "
            f"{', '.join(arm.name for arm in arms)}, of {len(self.models)} models, with "
            f"{self.seeds} seeds"
        )
        if self.rollouts is not None:
            rollouts = self.rollouts
            keys = len(rollouts.of("random", RandomConfig()).keys())
            players = runs + len(self.models) + 2
            said.append(
                f"play {players * keys:,} rollouts in {rollouts.suite.name}, {keys} by each of "
                f"{players} players; protocol {rollouts.protocol.title}"
            )
        return said

    def settings(self) -> dict[str, Any]:
        """Return what decides the numbers, as JSON values."""
        rollouts = self.rollouts
        return {
            "models": {
                model.name: {
                    "policy": to_dict(model.policy),
                    "training": None if model.training is None else to_dict(model.training),
                }
                for model in self.models
            },
            "eyes": {arm.name: to_dict(arm.swap) for arm in self.arms()},
            "tuning": to_dict(self.tuning),
            "samples": self.samples,
            "pictures": self.pictures,
            "suite": None if rollouts is None else rollouts.suite.name,
        }

    def run(
        self,
        folder: Path,
        *,
        command: str,
        jobs: int = 0,
        report: Report = lambda _: None,
        played: Callable[[Played], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Do what is not done yet; write ``results.json``, ``table.md`` and ``report.html``.

        Raises:
            ConfigError: settings, or data, that do not go together.
            CheckpointError: the folder holds another comparison.
            SaccadeError: a training failed; the others have saved.
        """
        self.check()
        jobs = jobs or default_jobs()
        with lock(folder):
            self._begin(folder)
            self._bases(folder, jobs, report)
            self._exchanges(folder, report)
            train_all(self._trainings(folder), jobs, report)
            self._rollouts(folder, command, report, played)
            results = vla_findings.gather(self, folder, command, report)
            write_atomic(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
            write_vla_report(results, folder)
        return results

    def _begin(self, folder: Path) -> None:
        path, now = folder / SETTINGS, self.settings()
        if path.is_file():
            require_same(json.loads(path.read_text()), now, path)
        else:
            write_atomic(path, json.dumps(now, indent=1) + "\n")

    def _bases(self, folder: Path, jobs: int, report: Report) -> None:
        """Train fresh models whole."""
        trainings: dict[str, tuple[Training, Path]] = {}
        for model in self.models:
            place = folder / "base" / model.name
            source = self.tuning.source if model.training is None else model.training.source
            whole = replace(source, demos=1.0)
            start = place if model.training is None else place / "fresh"
            self._exchange(start, model.policy, SwapConfig(mode="keep"), whole, report)
            if model.training is not None and not (place / "run" / "result.json").exists():
                training = with_policy(model.training, start)
                trainings[f"{model.name}, the base"] = training, place / "run"
        train_all(trainings, jobs, report)

    def base(self, folder: Path, model: Model) -> Path:
        """Return where the policy lies whose eyes are exchanged."""
        inside = "" if model.training is None else "run"
        return folder / "base" / model.name / inside / "policy"

    def _exchanges(self, folder: Path, report: Report) -> None:
        for model in self.models:
            base = PretrainedVlaConfig(folder=self.base(folder, model))
            for arm in self.arms():
                for seed in range(self.seeds):
                    place = self.swapped(folder, model.name, arm, seed)
                    self._exchange(place, base, arm.swap, self.tuning.source, report, seed)

    def _exchange(
        self,
        place: Path,
        base: Config[VlaPolicy],
        how: SwapConfig,
        source: SourceConfig,
        report: Report,
        seed: int = 0,
    ) -> None:
        if (place / SWAPPED).is_file():
            return
        exchange = Exchange(base=base, swap=how, source=source, pictures=self.pictures, seed=seed)
        policy, fit = exchange.run(report)
        policy.save_pretrained(place / "policy", policy.config)
        found = {
            "new": list(policy.new_parts()),
            "digests": policy.digests(),
            "fit": None if fit is None else fit._asdict(),
        }
        write_atomic(place / SWAPPED, json.dumps(found, indent=1) + "\n")

    def place(self, folder: Path, kind: str, model: str, arm: str) -> Path:
        """Return the folder of one row."""
        return folder / kind / model / arm.replace(" ", "_").replace("/", "_")

    def _trainings(self, folder: Path) -> dict[str, tuple[Training, Path]]:
        """Return the fine-tunings that are still to be done, first seeds first.

        Raises:
            ConfigError: a folder holds another one.
        """
        found: dict[str, tuple[Training, Path]] = {}
        for seed in range(self.seeds):
            for model in self.models:
                for arm in self.arms():
                    swapped = self.swapped(folder, model.name, arm, seed)
                    run = self.tuned(folder, model.name, arm.name, seed)
                    training = with_budget(with_policy(self.tuning, swapped), self.samples, seed)
                    if not (run / "result.json").exists():
                        found[f"{model.name}, {arm.name}, seed {seed}"] = training, run
        return found

    def swapped(self, folder: Path, model: str, arm: Arm, seed: int) -> Path:
        """Return the folder of one exchange; a new projector is another one with each seed."""
        place = self.place(folder, "eyes", model, arm.name)
        return place / f"seed-{seed}" if arm.swap.mode == "replace" and seed else place

    def tuned(self, folder: Path, model: str, arm: str, seed: int) -> Path:
        """Return the folder of one fine-tuning."""
        return self.place(folder, "tuned", model, arm) / f"seed-{seed}"

    def rolled(self, folder: Path, model: str, arm: str, seed: int) -> Path:
        """Return the folder of one evaluation."""
        return self.place(folder, "rollouts", model, arm) / f"seed-{seed}"

    def _rollouts(
        self, folder: Path, command: str, report: Report, played: Callable[[Played], None]
    ) -> None:
        """Let the policies, and floors, act on the same keys."""
        if self.rollouts is None:
            return
        floors = self.rollouts.of("random", RandomConfig(), nothing=NothingConfig())
        todo = [(floors, folder / "rollouts" / FLOORS)]
        for model in self.models:
            base = self.base(folder, model)
            policies = [(BASE, 0, base)]
            policies += [
                (arm.name, seed, self.tuned(folder, model.name, arm.name, seed) / "policy")
                for seed in range(self.seeds)
                for arm in self.arms()
            ]
            for name, seed, policy in policies:
                player = self._player(policy)
                evaluation = self.rollouts.of(f"{model.name}, {name}", player)
                todo.append((evaluation, self.rolled(folder, model.name, name, seed)))
        for number, (evaluation, place) in enumerate(todo, 1):
            report(f"rollouts of {evaluation.name} ({number} of {len(todo)})")
            evaluation.run(place, command=command, resume=True, report=played)

    def _player(self, policy: Path) -> PolicyConfig:
        assert self.rollouts is not None
        protocol = self.rollouts.protocol
        if not (policy / CONFIG).is_file():
            raise ConfigError(f"{policy} holds no policy; delete its run, and run this again")
        return PolicyConfig(
            folder=policy,
            device=self.device,
            execute=protocol.execute,
            ensemble=protocol.ensemble,
        )


def place_of(source: SourceConfig) -> str:
    """Return where the data of a source lie, however the path was written."""
    root = getattr(source.episodes, "root", None)
    return str(source.episodes) if root is None else str(Path(root).resolve())

"""How near a trained policy comes to demonstrations that it was not trained on."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saccade.checkpoint import write_atomic
from saccade.config import Config, from_dict
from saccade.data.episodes import Episodes
from saccade.data.loader import fixed_batches
from saccade.errors import CheckpointError, ConfigError
from saccade.evals.offline_policy import offline_scores, window
from saccade.experiments.acting import PolicyTraining, statistics
from saccade.experiments.source import Report
from saccade.types import Policy

BATCH = 32
RESULTS = "offline.json"


@dataclass(frozen=True, kw_only=True)
class Offline:
    """A policy's commands beside those of held-out demonstrations.

    Args:
        run: folder of a policy's training; its settings say which episodes were held out.
        part: ``select``, which training watched to name its best weights, or ``test``.
        samples: moments that are asked about; 0 asks about every one.
        best: take the weights of the best held-out loss in place of the last ones.
        episodes: another data set, of which all episodes are asked about.
        seed: of the policy's random numbers.
    """

    run: Path
    part: str = "select"
    samples: int = 0
    best: bool = False
    episodes: Config[Episodes] | None = None
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the policy lies."""
        return (self.run / "best" if self.best else self.run) / "policy"

    def training(self) -> PolicyTraining:
        """Return the settings of the run.

        Raises:
            CheckpointError: the folder holds no run that trained a policy.
        """
        path = self.run / "experiment.json"
        try:
            training = from_dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); give the folder of a policy's training"
            ) from error
        if not isinstance(training, PolicyTraining):
            raise CheckpointError(f"{self.run} trained no policy; give a run of phase 2 or of bc")
        return training

    def score(self, report: Report = lambda _: None) -> dict[str, Any]:
        """Ask the policy, and return JSON values: see ``evals/offline_policy.py``.

        Raises:
            ConfigError: there is no such part, or another data set has other axes.
            CheckpointError: the folder holds no policy.
        """
        if self.samples < 0:
            raise ConfigError(f"samples is {self.samples}; give 1 or more, or 0 for every moment")
        training, policy = self.training(), Policy.from_pretrained(self.folder)
        contract = policy.contract
        source = replace(training.source, cameras=contract.cameras, camera="")
        learned = source.open(contract.image_size, report)
        data: Episodes = learned.whole
        if self.episodes is not None:
            source = replace(source, episodes=self.episodes)
            data = source.open(contract.image_size, report).whole
        elif self.part not in learned.named() or not learned.named()[self.part].lengths:
            held = [name for name, part in learned.named().items() if part.lengths]
            raise ConfigError(f"there is no part {self.part!r}; the data were dealt into {held}")
        else:
            data = learned.named()[self.part]
        for found, wanted in (
            (data.state_names, contract.state_names),
            (data.action_names, contract.action_names),
        ):
            if found != wanted:
                raise ConfigError(
                    f"the data give {', '.join(found)}, the policy was trained on "
                    f"{', '.join(wanted)}; choose the same state and action of the reader"
                )
        asked = window(contract)
        count = self.samples or sum(data.lengths)
        clips = fixed_batches(data, asked, contract.cameras, count, BATCH, seed=self.seed)
        known = statistics(learned.train)
        mean, std = known.action_mean.tolist(), known.action_std.tolist()
        found = offline_scores(policy, clips, mean, std, seed=self.seed)
        return {
            "part": self.part if self.episodes is None else "all",
            "policy_folder": str(self.folder),
            "contract": contract.digest(),
            "axes": list(contract.action_names),
            **found,
        }

    def run_and_keep(self, report: Report = lambda _: None) -> dict[str, Any]:
        """Score, and write ``offline.json`` beside the policy."""
        found = self.score(report)
        write_atomic(self.run / RESULTS, json.dumps(found, indent=2) + "\n")
        return found

"""Trained encoders through the probe, without training anything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saccade.checkpoint import CONFIG
from saccade.config import from_dict
from saccade.errors import ConfigError
from saccade.evals.probe import ProbeConfig
from saccade.experiments.evidence import Question, Subject, measure
from saccade.experiments.source import Report, SourceConfig
from saccade.types import Encoder


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What do these encoders know of the robot's motion?

    Args:
        encoders: model folders, for example ``runs/first/encoder``.
        source: the data set; it must not be what the encoders' test episodes were trained on.
        probe: what to ask.
    """

    encoders: tuple[Path, ...]
    source: SourceConfig
    probe: ProbeConfig

    def run(self, folder: Path, *, command: str, report: Report = lambda _: None) -> dict[str, Any]:
        """Probe every encoder beside its untrained network and the floors.

        Raises:
            CheckpointError: a folder does not hold an encoder.
            ConfigError: no encoder, one twice, or encoders that want frames of different sizes.
        """
        if not self.encoders or len(set(self.encoders)) < len(self.encoders):
            told = [str(path) for path in self.encoders]
            raise ConfigError(f"encoders are {told}; name one or more, each once")
        subjects = [subject(path) for path in self.encoders]
        sizes = {s.trained[0].preprocessing.image_size for s in subjects}
        if len(sizes) != 1:
            raise ConfigError(
                f"the encoders want frames of {sorted(sizes)} pixels; probe one size at a time"
            )
        question = Question(
            title=f"What {len(subjects)} frozen encoder{'s' * (len(subjects) > 1)} know",
            command=command,
            source=self.source,
            size=sizes.pop(),
            probe=self.probe,
        )
        return measure(subjects, question, folder, report)


def subject(path: Path) -> Subject:
    """Load an encoder, and build its untrained twin from the same config."""
    trained = Encoder.from_pretrained(path)
    torch.manual_seed(0)
    twin = from_dict(json.loads((path / CONFIG).read_text())["model"]).build()
    return Subject(
        name=str(path),
        recipe=str(path),
        trained={0: trained},
        untrained={0: twin.eval()},
    )

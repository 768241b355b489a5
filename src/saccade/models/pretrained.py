"""Encoders that some run has already trained, usable wherever a fresh one is."""

from dataclasses import dataclass
from pathlib import Path

from saccade.config import Config
from saccade.types import Encoder


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(Config[Encoder]):
    """``folder`` is what a run exported, for example ``runs/first/encoder``."""

    folder: Path
    trainable: bool = False

    def build(self) -> Encoder:
        """Load the encoder, frozen unless asked otherwise."""
        return Encoder.from_pretrained(self.folder).requires_grad_(self.trainable)

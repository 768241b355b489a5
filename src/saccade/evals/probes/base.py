"""What every probe shares: its settings, its data, and the form of its answers.

A probe is prepared once (it chooses clips and labels them), then put to every reader: trained
encoders, their untrained networks, and floors, all through the same code. An answer holds sums
per episode, from which values, intervals and paired differences follow (``evals/statistics``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from saccade.data.episodes import Episodes
from saccade.evals.features import Precision, Reader, Request
from saccade.evals.readouts import Readout
from saccade.evals.statistics import Statistic
from saccade.evals.targets import Labels

ProbeName = Literal["action", "flow", "order", "clusters", "factors", "curves", "robustness"]
Better = Literal["higher", "lower"]
FITTED = ("train", "select")  # parts that readouts learn and choose from; all others are reported


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What to ask of frozen features.

    Args:
        probes: ``action`` how the end effector (or hand) moved; ``flow`` optical flow, cell by
            cell; ``order`` which order of frames is the true one; ``clusters`` whether tasks and
            behaviours lie apart; ``factors`` what survives when position, appearance or motion is
            controlled; ``curves`` the score over the share of labelled episodes;
            ``robustness`` noise, JPEG, lighting and camera shift at test time, at the headline gap.
        gaps: steps between the first frame and the last.
        headline: the gap that the verdict speaks of, and that costly questions are asked at.
        stride: steps between the first frames of clips.
        most: clips of a part at each gap, as many of each episode; 0 takes all.
        readouts: what is fitted; those after the first only at the headline gap.
        labels: what the action probe predicts.
        cells: cells per side of the grid that tokens are averaged over and flow is asked on.
        shares: of the training episodes, for ``curves``.
        resamples: of episodes, for intervals and permutation tests.
        precision: of the encoders' arithmetic.
        seed: of readouts, shuffles and resampling.
    """

    probes: tuple[ProbeName, ...] = ("action",)
    gaps: tuple[int, ...] = (1, 5, 10)
    headline: int = 5
    stride: int = 2
    most: int = 0
    readouts: tuple[Readout, ...] = ("linear",)
    labels: Labels = field(default_factory=Labels)
    cells: int = 8
    shares: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0)
    resamples: int = 2000
    precision: Precision = "float32"
    seed: int = 0

    @property
    def main_gap(self) -> int:
        """The headline gap, or the nearest that is asked for."""
        return min(self.gaps, key=lambda gap: (abs(gap - self.headline), gap))

    def readouts_at(self, gap: int) -> tuple[Readout, ...]:
        """Return what is fitted at a gap."""
        return self.readouts if gap == self.main_gap else self.readouts[:1]


class Data(NamedTuple):
    """The parts that labels are taken from, and the camera.

    Parts besides train and select are reported; a part called ``test | noise 16`` is the split
    ``test`` under the condition ``noise 16``, which is asked about at the headline gap only.
    """

    parts: Mapping[str, Episodes]
    camera: str

    def asked_at(self, gap: int, config: ProbeConfig) -> dict[str, Episodes]:
        """Return the parts to ask about at a gap: perturbed ones at the headline gap only."""
        main = gap == config.main_gap
        return {name: part for name, part in self.parts.items() if main or not split_of(name)[1]}

    def reported(self) -> list[str]:
        """List the parts to report on."""
        return [name for name in self.parts if name not in FITTED]


def split_of(part: str) -> tuple[str, str]:
    """Return the split and the condition that a part stands for."""
    split, _, condition = part.partition(" | ")
    return split, condition


class Key(NamedTuple):
    """Where a score belongs, whatever the representation."""

    probe: str
    target: str
    group: str
    frame: str
    readout: str
    gap: int
    split: str
    condition: str
    labels: float
    metric: str


class Answer(NamedTuple):
    """One score of one reader: sums per episode, and the statistic that turns them into a value.

    ``drawn`` is what a picture is made of: counts of true (rows) and given classes, or the flow
    that was read off the clips of the picture.
    """

    key: Key
    sums: Float64[np.ndarray, "e c"]
    statistic: Statistic
    samples: int
    better: Better = "higher"
    chance: float | None = None
    tolerance: float | None = None
    dims: int = 0
    penalty: float | None = None
    drawn: Float64[np.ndarray, "..."] | None = None


@runtime_checkable
class Prepared(Protocol):
    """A probe with its clips and labels."""

    def requests(self) -> Iterator[Request]:
        """Name every clip that ``answers`` will read features of."""
        ...

    def answers(self, reader: Reader | None, seed: int) -> Iterator[Answer]:
        """Fit and score; a reader of None predicts what costs nothing (no motion, chance)."""
        ...

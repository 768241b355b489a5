"""The order probe: can frozen features tell in which order frames were recorded?

    two orders   a pair of frames, as recorded or exchanged; chance is a half
    six orders   four frames over the same time in one of six orders, of which one is the
                 recorded one and one its reverse; chance is a sixth

Every clip is shown in every order, so classes are balanced within each episode, and parts hold
whole episodes. A single frame may tell how far a task has got, and with it the order; the same
readout that sees only the first frame shown (repeated) measures that static cue. Perturbed frames
are shown in two orders, at the headline gap.
Planned in the documents with a bar of 90 %; cf. Misra et al., 2016 (arXiv 1603.08561).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saccade.data.episodes import Episodes
from saccade.evals import statistics
from saccade.evals.clips import Clips, enumerate_clips
from saccade.evals.features import Reader, Request
from saccade.evals.probes.base import Answer, Data, Key, ProbeConfig, split_of
from saccade.evals.readouts import Readout, fitter

FOUR = ((0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 2, 3), (0, 2, 1, 3), (2, 0, 3, 1), (1, 3, 0, 2))
STATIC = "first frame only"


class Shuffled(NamedTuple):
    """Clips of every part, and the orders that they are shown in."""

    target: str
    gap: int
    clips: Mapping[str, Clips]
    orders: Sequence[tuple[int, ...]]  # offsets, as shown

    @property
    def labels(self) -> list[str]:
        """Name the orders by the ranks of the frames that are shown."""
        rank = {offset: i for i, offset in enumerate(sorted(self.orders[0]))}
        return ["".join(str(rank[offset] + 1) for offset in order) for order in self.orders]


class OrderProbe:
    """Which of two, and which of six orders."""

    def __init__(self, data: Data, config: ProbeConfig) -> None:
        self.data, self.config = data, config
        self.asked = [
            shuffled
            for gap in config.gaps
            for shuffled in (self._pairs(gap), self._fours(gap))
            if shuffled is not None
        ]

    def _pairs(self, gap: int) -> Shuffled:
        parts = self.data.asked_at(gap, self.config)
        return Shuffled("two orders", gap, self._clips(parts, (0, gap)), ((0, gap), (gap, 0)))

    def _fours(self, gap: int) -> Shuffled | None:
        """Spread four frames over the headline gap, where it has room for them."""
        if gap < 3 or gap != self.config.main_gap:
            return None
        at = [round(i * gap / 3) for i in range(4)]
        orders = [tuple(at[i] for i in order) for order in FOUR]
        clean = {part: e for part, e in self.data.parts.items() if not split_of(part)[1]}
        return Shuffled("six orders", gap, self._clips(clean, orders[0]), orders)

    def _clips(self, parts: Mapping[str, Episodes], offsets: tuple[int, ...]) -> dict[str, Clips]:
        config = self.config
        orders = 2 if len(offsets) == 2 else len(FOUR)  # each clip is shown in all of them
        most = max(1, config.most // orders) if config.most else 0
        return {
            part: enumerate_clips(episodes, offsets, config.stride, most)
            for part, episodes in parts.items()
        }

    def names(self, target: str) -> list[str]:
        """Name the orders of a target."""
        return next(shuffled.labels for shuffled in self.asked if shuffled.target == target)

    def requests(self) -> Iterator[Request]:
        """Ask for every clip in every order, and for each of its frames alone."""
        for shuffled in self.asked:
            cells = "attentive" in self.config.readouts_at(shuffled.gap)
            for part, clips in shuffled.clips.items():
                for order in shuffled.orders:
                    yield Request(part, clips.shown(*order), cells)
                    if not split_of(part)[1]:
                        yield Request(part, clips.shown(*(order[:1] * len(order))))

    def answers(self, reader: Reader | None, seed: int) -> Iterator[Answer]:
        """Fit and score; without a reader there is nothing to say but chance."""
        if reader is None:
            return
        for shuffled in self.asked:
            for readout in self.config.readouts_at(shuffled.gap):
                yield from self._ask(reader, shuffled, readout, seed, "")
            yield from self._ask(reader, shuffled, "linear", seed, STATIC)

    def _ask(
        self, reader: Reader, shuffled: Shuffled, readout: Readout, seed: int, control: str
    ) -> Iterator[Answer]:
        x: dict[str, Tensor] = {}
        for part, clips in shuffled.clips.items():
            if control and split_of(part)[1]:
                continue
            found = self._features(reader, part, clips, shuffled, readout, control)
            if found is None:
                return
            x[part] = found
        count = len(shuffled.orders)
        truth = {
            part: np.repeat(np.arange(count), len(clips.start))
            for part, clips in shuffled.clips.items()
        }
        one_hot = {part: np.eye(count)[label] for part, label in truth.items()}
        fit = fitter(readout, x["train"], seed, classes=True)
        fitted = fit(one_hot["train"], x["select"], one_hot["select"])
        for part in [part for part in self.data.reported() if part in x]:
            split, condition = split_of(part)
            answer = fitted.predict(x[part]).argmax(1)
            episode = np.tile(shuffled.clips[part].episode, count)
            key = Key(
                "order", shuffled.target, "", "", readout, shuffled.gap, split,
                condition or control, 1.0, "accuracy",
            )  # fmt: skip
            counts = np.zeros((count, count))
            np.add.at(counts, (truth[part], answer), 1)
            yield Answer(
                key,
                statistics.accuracy_sums(answer == truth[part], episode),
                statistics.accuracy,
                samples=len(answer),
                chance=1 / count,
                dims=x[part].shape[-1],
                penalty=fitted.penalty,
                drawn=counts,
            )

    def _features(
        self,
        reader: Reader,
        part: str,
        clips: Clips,
        shuffled: Shuffled,
        readout: Readout,
        control: str,
    ) -> Tensor | None:
        """Read every order, one after the other; None where the reader has no cells."""
        found = []
        for order in shuffled.orders:
            shown = clips.shown(*(order[:1] * len(order) if control else order))
            if readout == "attentive":
                cells = reader.cells(part, shown)
                if cells is None:
                    return None
                found.append(cells.flatten(1, 2))
            else:
                found.append(reader.vectors(part, shown))
        return torch.cat(found)

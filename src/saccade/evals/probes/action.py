"""The action probe: how much of a robot's (or hand's) motion can be read off frozen features?

Its variants share the clips, the labels and the fits:

    action   every gap, group of the target and frame of the labels
    curves   the same with a share of the labelled episodes, nested, chosen by seed; linear
    factors  what is left when one way to the answer is closed; linear, at the headline gap:
               no motion shown     the first frame is shown in place of the last
               beyond position     the labels less what the robot's state predicts
               beyond appearance   the labels less what the first frame's features predict

The last two subtract predictions that were fitted and chosen as any readout is. What is left is
scored as R2 of the rest, so scores of different controls have different denominators.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from saccade.errors import DataError
from saccade.evals import statistics
from saccade.evals.clips import Clips, enumerate_clips
from saccade.evals.features import Reader, Request, StateReader
from saccade.evals.probes.base import FITTED, Answer, Data, Key, ProbeConfig, split_of
from saccade.evals.readouts import Readout, fitter
from saccade.evals.ridge import Ridge
from saccade.evals.targets import Labelled, Target, check_alike, targets

FACTORS = ("no motion shown", "beyond position", "beyond appearance")
Values = Mapping[str, Float64[np.ndarray, "_ _"]]  # by part: rows and columns differ
Features = Mapping[str, Tensor]


class Asked(NamedTuple):
    """Where an answer belongs, besides its target and part."""

    readout: Readout
    gap: int
    condition: str = ""
    share: float = 1.0


class Guess(NamedTuple):
    """Predictions for one target on the reported parts."""

    target: int
    values: Values
    penalty: float | None
    dims: int


class ActionProbe:
    """Regression of motion on pooled features (or cells, for the attentive readout)."""

    def __init__(self, data: Data, config: ProbeConfig) -> None:
        self.data, self.config = data, config
        self.state = StateReader(data.parts)
        self.labelled: dict[int, dict[str, Labelled]] = {}
        for gap in config.gaps:
            self.labelled[gap] = {
                part: targets(episodes, self._clips(part, gap), data.camera, config.labels)
                for part, episodes in data.asked_at(gap, config).items()
            }
            check_alike(self.labelled[gap])

    def _clips(self, part: str, gap: int) -> Clips:
        episodes, config = self.data.parts[part], self.config
        return enumerate_clips(episodes, (0, gap), config.stride, config.most)

    @property
    def left_out(self) -> dict[str, int]:
        """Count the clips that have no label, by reason, over all gaps and parts."""
        found: dict[str, int] = {}
        for parts in self.labelled.values():
            for labelled in parts.values():
                for reason, count in labelled.left_out.items():
                    found[reason] = found.get(reason, 0) + count
        return found

    def requests(self) -> Iterator[Request]:
        """Ask for every pair, and for the first frames alone where factors are asked."""
        for gap, parts in self.labelled.items():
            for part, labelled in parts.items():
                cells = "attentive" in self.config.readouts_at(gap)
                yield Request(part, labelled.clips, cells)
                if self._factors(gap) and not split_of(part)[1]:
                    yield Request(part, labelled.clips.shown(0, 0))

    def _factors(self, gap: int) -> bool:
        return "factors" in self.config.probes and gap == self.config.main_gap

    def answers(self, reader: Reader | None, seed: int) -> Iterator[Answer]:
        """Fit and score; without a reader, score the prediction that nothing moves."""
        for gap in self.labelled:
            if reader is None:
                if self.config.labels.motion != "action":
                    yield from self._answer_still(gap)
                continue
            for readout in self.config.readouts_at(gap):
                x = self._features(reader, gap, readout)
                if x is None:
                    continue
                asked = Asked(readout, gap)
                if readout == "linear":
                    yield from self._linear(reader, x, asked, seed)
                else:
                    yield from self._network(x, asked, seed)

    def _features(
        self, reader: Reader, gap: int, readout: Readout, *shown: int
    ) -> dict[str, Tensor] | None:
        """Read every part; None where the reader has no cells."""
        found = {}
        for part, labelled in self.labelled[gap].items():
            clips = labelled.clips.shown(*shown) if shown else labelled.clips
            if shown and split_of(part)[1]:
                continue
            if readout != "attentive":
                found[part] = reader.vectors(part, clips)
                continue
            cells = reader.cells(part, clips)
            if cells is None:
                return None
            found[part] = cells.flatten(1, 2)
        return found

    def _linear(self, reader: Reader, x: Features, asked: Asked, seed: int) -> Iterator[Answer]:
        """Fit ridges, with all labels, and with what else is asked of linear readouts."""
        gap = asked.gap
        yield from self._scored(self._ridges(x, self._truth(gap)), asked)
        if gap != self.config.main_gap:
            return
        if "curves" in self.config.probes:
            for share in self.config.shares:
                if share == 1:  # that is the answer above
                    continue
                chosen = self._labelled_share(gap, share, seed)
                guesses = self._ridges(x, self._truth(gap), chosen)
                clean = self._clean(guesses)
                yield from self._scored(clean, asked._replace(share=share))
        if "factors" in self.config.probes:
            yield from self._controlled(reader, x, asked)

    def _controlled(self, reader: Reader, x: Features, asked: Asked) -> Iterator[Answer]:
        """Close one way to the answer at a time."""
        truth = self._truth(asked.gap)
        first = self._features(reader, asked.gap, "linear", 0, 0)
        assert first is not None
        still, position, appearance = (asked._replace(condition=name) for name in FACTORS)
        yield from self._scored(self._clean(self._ridges(first, truth)), still)
        parts = [part for part in self.labelled[asked.gap] if not split_of(part)[1]]
        state = {p: self.state.vectors(p, self.labelled[asked.gap][p].clips) for p in parts}
        for known, control in ((state, position), (first, appearance)):
            rest = self._rest(known, truth)
            yield from self._scored(self._clean(self._ridges(x, rest)), control, rest)

    def _rest(self, known: Features, truth: list[Values]) -> list[Values]:
        """Subtract from the labels what a ridge on ``known`` predicts of them."""
        parts = list(known)
        ridge = Ridge(known["train"])
        left = []
        for values in truth:
            fitted = ridge.fit(values["train"], known["select"], values["select"])
            left.append({part: values[part] - fitted.predict(known[part]) for part in parts})
        return left

    def _network(self, x: Features, asked: Asked, seed: int) -> Iterator[Answer]:
        """Fit one network to all groups at once, in the frame of the headline."""
        found = self.labelled[asked.gap]["train"].targets
        frame = found[0].frame  # the camera's comes first, where it is known
        chosen = [i for i, target in enumerate(found) if target.frame == frame]
        truth = self._truth(asked.gap)
        joint = {part: np.concatenate([truth[i][part] for i in chosen], 1) for part in x}
        fit = fitter(asked.readout, x["train"], seed)
        fitted = fit(joint["train"], x["select"], joint["select"])
        ends = np.cumsum([truth[i]["train"].shape[1] for i in chosen])[:-1]
        split = {p: np.split(fitted.predict(x[p]), ends, 1) for p in x if p not in FITTED}
        for place, i in enumerate(chosen):
            values = {part: columns[place] for part, columns in split.items()}
            guess = Guess(i, values, None, x["train"].shape[-1])
            yield from self._scored([guess], asked)

    def _truth(self, gap: int) -> list[Values]:
        """Return the labels of every target, by part."""
        parts = self.labelled[gap]
        return [
            {part: labelled.targets[i].values for part, labelled in parts.items()}
            for i in range(len(parts["train"].targets))
        ]

    def _ridges(
        self, x: Features, truth: list[Values], chosen: Bool[np.ndarray, " n"] | None = None
    ) -> list[Guess]:
        """Fit a ridge to every target, on all or on the chosen training clips."""
        rows = np.arange(len(x["train"])) if chosen is None else np.flatnonzero(chosen)
        ridge = Ridge(x["train"] if chosen is None else x["train"][torch.from_numpy(rows)])
        guesses = []
        for i, values in enumerate(truth):
            fitted = ridge.fit(values["train"][rows], x["select"], values["select"])
            predicted = {part: fitted.predict(x[part]) for part in x if part not in FITTED}
            guesses.append(Guess(i, predicted, fitted.penalty, x["train"].shape[-1]))
        return guesses

    @staticmethod
    def _clean(guesses: list[Guess]) -> list[Guess]:
        """Leave out the perturbed parts."""
        return [
            guess._replace(values={p: v for p, v in guess.values.items() if not split_of(p)[1]})
            for guess in guesses
        ]

    def _labelled_share(self, gap: int, share: float, seed: int) -> Bool[np.ndarray, " n"]:
        """Choose a share of the training episodes, at least one; smaller shares lie in larger."""
        clips = self.labelled[gap]["train"].clips
        known = np.unique(clips.episode)
        order = np.random.default_rng((self.config.seed, seed)).permutation(known)
        return np.isin(clips.episode, order[: max(1, round(share * len(order)))])

    def _answer_still(self, gap: int) -> Iterator[Answer]:
        """Score the prediction of no motion."""
        guesses = [
            Guess(i, {p: np.zeros_like(v) for p, v in values.items() if p not in FITTED}, None, 0)
            for i, values in enumerate(self._truth(gap))
        ]
        yield from self._scored(guesses, Asked(self.config.readouts[0], gap))

    def _scored(
        self, guesses: list[Guess], asked: Asked, truth: list[Values] | None = None
    ) -> Iterator[Answer]:
        """Sum up the errors of every guess, and give every score that they have."""
        for guess in guesses:
            for part, predicted in guess.values.items():
                labelled = self.labelled[asked.gap][part]
                target = labelled.targets[guess.target]
                true = target.values if truth is None else truth[guess.target][part]
                split, condition = split_of(part)
                sums = statistics.episode_sums(
                    predicted, true, labelled.clips.episode, target.tolerance
                )
                for metric, statistic in _statistics(target, truth is not None).items():
                    yield Answer(
                        self._key(asked, target, split, condition, metric),
                        sums,
                        statistic,
                        samples=len(predicted),
                        tolerance=target.tolerance if metric == "within" else None,
                        dims=guess.dims,
                        penalty=guess.penalty,
                        chance=0.0 if metric == "r2" else None,
                    )

    def _key(self, asked: Asked, target: Target, split: str, condition: str, metric: str) -> Key:
        return Key(
            probe="action",
            target=self.config.labels.motion,
            group=target.group,
            frame=target.frame,
            readout=asked.readout,
            gap=asked.gap,
            split=split,
            condition=condition or asked.condition,
            labels=asked.share,
            metric=metric,
        )


def _statistics(target: Target, rest: bool) -> dict[str, Callable[[Any], Any]]:
    """Say which scores a target has: a single axis has a sign and no direction."""
    found: dict[str, Callable[[Any], Any]] = {"r2": statistics.r2}
    if not rest and target.values.shape[1] > 1:
        found["cosine"] = statistics.cosine
    if not rest and target.tolerance is not None:
        found["within"] = statistics.within
    return found


def prepared(data: Data, config: ProbeConfig) -> ActionProbe:
    """Label the clips of the action probe and of its variants.

    Raises:
        DataError: the data name no end effector.
    """
    if not any(data.parts["train"].state_names):
        raise DataError(
            "the data set has no states, so motion cannot be asked about; leave out the probes "
            "action, factors and curves"
        )
    return ActionProbe(data, config)

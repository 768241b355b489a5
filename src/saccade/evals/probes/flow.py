"""The flow probe: can the motion of every part of the picture be read off the token that sees it?

The target is optical flow from the first frame to the last, averaged over a grid of cells, in
percent of the picture's side: exact where a simulator told depth, camera and body motion
(``data/truth.py``), else estimated by dense inverse search. The readout maps each cell's features
to its flow, the same map for all cells. Encoders whose grid is coarser predict all of a token's
cells at once, so every encoder is scored against the same targets.

Scored by end-point error, over all cells and over those that move; a fixed camera's background
does not. The documents' bar: 20 % below DINOv2.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from saccade.data.episodes import Episodes
from saccade.data.truth import flow as truth_flow
from saccade.errors import DataError
from saccade.evals import statistics
from saccade.evals.clips import Clips, enumerate_clips, read_video
from saccade.evals.descriptors import cell_flow, dis_flow
from saccade.evals.features import Reader, Request
from saccade.evals.probes.base import FITTED, Answer, Data, Key, ProbeConfig, split_of
from saccade.evals.readouts import Readout, fitter
from saccade.evals.ridge import Fit

PICTURED, APART = 6, 5  # clips that are drawn, and places in the order of motion between them
ROWS = 16_000  # of cells that a readout is fitted on, chosen by seed
MOVES = 0.5  # percent of the side; a cell whose flow is longer counts as moving
SHIFT = "camera shift"  # of ``data/perturbed.py``
EXACT, ESTIMATED = "simulator", "DIS"


class Flowing(NamedTuple):
    """Clips with the flow of their cells; cells that are not visible later are not scored."""

    clips: Clips
    flow: Float64[np.ndarray, "n g g 2"]  # percent of the side; NaN where not visible


class FlowProbe:
    """Regression of a cell's flow on its features."""

    def __init__(self, data: Data, config: ProbeConfig) -> None:
        self.data, self.config = data, config
        plain = {part: e for part, e in data.parts.items() if not split_of(part)[1]}
        self.target = source_of(plain, data.camera)
        gap = config.main_gap
        known = {
            part: self._label(enumerate_clips(e, (0, gap), config.stride, config.most), e)
            for part, e in plain.items()
        }
        # perturbed pictures move as the clean ones do; shifted ones do so at another place
        self.asked: dict[int, dict[str, Flowing]] = {
            gap: {
                part: known[split_of(part)[0]]
                for part in data.parts
                if not split_of(part)[1].startswith(SHIFT)
            }
        }

    @property
    def pictured(self) -> Int[np.ndarray, " m"]:
        """The test clips of the picture: the liveliest, some places apart."""
        (parts,) = self.asked.values()
        lively = np.nan_to_num(np.linalg.norm(parts["test"].flow, axis=-1)).mean((1, 2))
        return np.sort(np.argsort(-lively, kind="stable")[: PICTURED * APART : APART])

    def _label(self, clips: Clips, episodes: Episodes) -> Flowing:
        known = self.target == EXACT
        flow = exact_flow if known else estimated_flow
        return Flowing(clips, flow(episodes, clips, self.data.camera, self.config.cells))

    def _reported(self, gap: int) -> list[str]:
        return [part for part in self.data.reported() if part in self.asked[gap]]

    def requests(self) -> Iterator[Request]:
        """Ask for the cells of every pair."""
        for parts in self.asked.values():
            for part, flowing in parts.items():
                yield Request(part, flowing.clips, cells=True)

    def answers(self, reader: Reader | None, seed: int) -> Iterator[Answer]:
        """Fit and score; without a reader, score the prediction that nothing moves."""
        for gap, parts in self.asked.items():
            if reader is None:
                for part in self._reported(gap):
                    guess = np.zeros_like(parts[part].flow)
                    yield from self._scored(guess, part, gap, self.config.readouts[0])
                continue
            for readout in self.config.readouts_at(gap):
                fitted = self._fit(reader, parts, readout, seed)
                if fitted is None:
                    return
                for part in self._reported(gap):
                    x = self._cells(reader, part, parts[part])
                    assert x is not None, "a reader has cells of all parts or of none"
                    guess = self._predict(fitted, x, readout)
                    dims, penalty = x.shape[-1], fitted.penalty
                    yield from self._scored(guess, part, gap, readout, dims, penalty)

    def _cells(
        self, reader: Reader, part: str, flowing: Flowing
    ) -> Float[Tensor, "n g g d"] | None:
        """Read one part at a time: cells take much memory."""
        cells = reader.cells(part, flowing.clips)
        return None if cells is None else fitted_grid(cells, self.config.cells)

    def _fit(
        self, reader: Reader, parts: Mapping[str, Flowing], readout: Readout, seed: int
    ) -> Fit | None:
        """Fit on a sample of cells, or on whole clips where cells attend to each other."""
        rng = np.random.default_rng((self.config.seed, seed))
        drawn = []
        for part in FITTED:
            x = self._cells(reader, part, parts[part])
            if x is None:
                return None
            drawn.append(self._sample(x, parts[part].flow, readout, rng))
        (x, y), select = drawn
        return fitter(readout, x, seed)(y, *select)

    def _sample(
        self,
        x: Tensor,
        flow: Float64[np.ndarray, "n g g 2"],
        readout: Readout,
        rng: np.random.Generator,
    ) -> tuple[Tensor, Float64[np.ndarray, "m *l a"]]:
        y = as_targets(np.nan_to_num(flow), x.shape[1])  # cells that vanish count as still here
        if readout == "attentive":
            clips = _some(len(x), max(1, ROWS // (x.shape[1] * x.shape[2])), rng)
            return x[clips].flatten(1, 2).float(), y[clips].reshape(len(clips), -1, y.shape[-1])
        rows = _some(y[..., 0].size, ROWS, rng)
        return x.flatten(0, 2)[rows].float(), y.reshape(-1, y.shape[-1])[rows]

    def _predict(
        self, fitted: Fit, x: Float[Tensor, "n s s d"], readout: Readout
    ) -> Float64[np.ndarray, "n g g 2"]:
        """Predict the flow of every cell of the target's grid."""
        side, found = x.shape[1], []
        for some in x.split(256):
            rows = some.flatten(1, 2) if readout == "attentive" else some.flatten(0, 2)
            found.append(fitted.predict(rows.float()).reshape(len(some), side, side, -1))
        return from_targets(np.concatenate(found), self.config.cells)

    def _scored(
        self,
        guess: Float64[np.ndarray, "n g g 2"],
        part: str,
        gap: int,
        readout: Readout,
        dims: int = 0,
        penalty: float | None = None,
    ) -> Iterator[Answer]:
        flowing = self.asked[gap][part]
        split, condition = split_of(part)
        true = flowing.flow.reshape(-1, 2)
        episode = np.repeat(flowing.clips.episode, self.config.cells**2)
        seen = np.isfinite(true).all(1)
        for group, kept in (
            ("all cells", seen),
            ("moving cells", seen & (np.linalg.norm(np.nan_to_num(true), axis=1) > MOVES)),
        ):
            if not kept.any():
                continue
            guessed, wanted, where = guess.reshape(-1, 2)[kept], true[kept], episode[kept]
            error = np.linalg.norm(guessed - wanted, axis=1)
            for metric, sums, statistic in (
                ("epe", statistics.error_sums(error, where), statistics.mean_error),
                ("r2", statistics.episode_sums(guessed, wanted, where, None), statistics.r2),
            ):
                drawn = group == "all cells" and metric == "epe" and part == "test"
                yield Answer(
                    Key(
                        "flow", self.target, group, "image",
                        readout, gap, split, condition, 1.0, metric,
                    ),
                    sums,
                    statistic,
                    samples=int(kept.sum()),
                    better="lower" if metric == "epe" else "higher",
                    chance=0.0 if metric == "r2" else None,
                    dims=dims,
                    penalty=penalty,
                    drawn=guess[self.pictured] if drawn else None,
                )  # fmt: skip


def source_of(parts: Mapping[str, Episodes], camera: str) -> str:
    """Say where the flow comes from: the simulator, if it told about every episode.

    Raises:
        DataError: it told about some episodes and not about others.
    """
    told = [
        episodes.truth(e, camera) is not None
        for episodes in parts.values()
        for e in range(len(episodes.lengths))
    ]
    if any(told) and not all(told):
        raise DataError(
            f"{sum(told)} of {len(told)} episodes have the simulator's depth and motion; collect "
            "the others with --truth too, or remove the truth folder"
        )
    return EXACT if told and all(told) else ESTIMATED


def exact_flow(
    episodes: Episodes, clips: Clips, camera: str, cells: int
) -> Float64[np.ndarray, "n g g 2"]:
    """Return what the simulator knows, as percent of the side; NaN where it is hidden later."""
    found = []
    for episode, starts in clips.by_episode():
        truth = episodes.truth(episode, camera)
        assert truth is not None, "source_of has looked"
        flows = [truth_flow(truth, int(start), int(start) + clips.gap) for start in starts]
        moved = torch.from_numpy(np.stack([flow for flow, _ in flows]))
        visible = torch.from_numpy(np.stack([seen for _, seen in flows]))
        found.append(cell_flow(100 * moved / moved.shape[-1], cells, visible))
    return rearrange(torch.cat(found).double().numpy(), "n c i j -> n i j c")


def estimated_flow(
    episodes: Episodes, clips: Clips, camera: str, cells: int
) -> Float64[np.ndarray, "n g g 2"]:
    """Estimate by dense inverse search, as percent of the side."""
    found = []
    for video in read_video(episodes, clips, camera, batch=64):
        flow = dis_flow(video[:, 0], video[:, -1])
        found.append(cell_flow(100 * flow / flow.shape[-1], cells))
    return rearrange(torch.cat(found).double().numpy(), "n c i j -> n i j c")


def fitted_grid(cells: Float[Tensor, "n g g d"], wanted: int) -> Float[Tensor, "n _ _ d"]:
    """Bring features to a grid that divides the target's: finer and odd ones are resampled."""
    side = cells.shape[1]
    if side <= wanted and wanted % side == 0:
        return cells
    pictures = rearrange(cells, "n i j d -> n d i j").float()
    if side > wanted:
        pictures = F.adaptive_avg_pool2d(pictures, wanted)
    else:
        pictures = F.interpolate(pictures, (wanted, wanted), mode="bilinear")
    return rearrange(pictures, "n d i j -> n i j d")


def as_targets(flow: Float64[np.ndarray, "n g g 2"], side: int) -> Float64[np.ndarray, "n i j a"]:
    """Collect, for each token of a coarser grid, the flow of all its cells."""
    return rearrange(flow, "n (i p) (j q) c -> n i j (p q c)", i=side, j=side)


def from_targets(
    values: Float64[np.ndarray, "n i j a"], cells: int
) -> Float64[np.ndarray, "n g g 2"]:
    """Undo ``as_targets``."""
    p = cells // values.shape[1]
    return rearrange(values, "n i j (p q c) -> n (i p) (j q) c", p=p, q=p)


def _some(count: int, most: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))

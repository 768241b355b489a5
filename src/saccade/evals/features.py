"""What probes read from: frozen encoders, and the floors that they must beat.

A *reader* turns clips into one vector each and, where it sees the picture, into one vector per
cell of a grid. Encoders are one kind of reader; the others need no learning, so that a probe's
number says what training added: pixels, their change, gradients, optical flow, the robot's own
state, the task's name.

How an encoder is shown a clip depends on how many frames it takes:

    frame  each frame is encoded on its own; the vectors are put side by side (``concatenation``)
           or the change from one to the next is kept (``difference``)
    pair   successive frames are encoded as pairs, side by side (``pair``)
    clip   the frames fill the clip, each repeated as often (``repeated``); time steps of its
           tokens are averaged to one per frame shown
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.data.episodes import Episodes
from saccade.errors import ConfigError, DataError
from saccade.evals import descriptors
from saccade.evals.clip_store import ClipStore, Encoded, Report, shard_name, whole_clips
from saccade.evals.clips import Clips, read_video
from saccade.types import Encoder

CODE = "clips-1"  # part of every digest: change it when the same weights give other features
BATCH_PIXELS = 16 * 224**2
Reading = Literal["concatenation", "difference", "pair", "repeated"]
Precision = Literal["float32", "bfloat16"]
Views = Mapping[str, Episodes]  # the parts of a data set, in pictures of one size


class Request(NamedTuple):
    """Clips of a part that a probe will ask for, with their cells or without."""

    part: str
    clips: Clips
    cells: bool = False


@runtime_checkable
class Reader(Protocol):
    """Frozen features of clips, by the part of the data that holds them."""

    def prepare(self, requests: Iterable[Request]) -> None:
        """Compute what will be asked for, in one pass."""

    def vectors(self, part: str, clips: Clips) -> Float[Tensor, "n f"]:
        """Return one vector per clip."""
        ...

    def cells(self, part: str, clips: Clips) -> Float[Tensor, "n g g d"] | None:
        """Return one vector per cell of the picture; None where no picture is seen."""
        ...


class EncoderReader:
    """A frozen encoder. Its features are kept on disk and shared between readings and probes.

    Args:
        encoder: what to ask.
        reading: how clips are shown, one of ``readings(encoder)``.
        views: the parts, in frames that ``encoder.prepare`` takes.
        camera: the one to look through.
        root: folder of the feature stores.
        grid: at most so many cells per side; coarser encoders keep theirs.
        batch: clips encoded at once; 0 takes as many as have the pixels of 16 frames of 224 x 224
            (of which more leave a processor's cache), 16 to 128.
        precision: of the network's arithmetic; features are kept in float32 (cells in float16).
    """

    def __init__(
        self,
        encoder: Encoder,
        reading: Reading,
        views: Views,
        camera: str,
        root: Path,
        *,
        grid: int = 8,
        batch: int = 0,
        precision: Precision = "float32",
        report: Report = lambda _: None,
    ) -> None:
        if reading not in readings(encoder):
            raise ConfigError(
                f"{type(encoder).__name__} takes {encoder.preprocessing.num_frames} frames; it "
                f"can be read by {' or '.join(readings(encoder))}, not by {reading}"
            )
        self.encoder, self.reading, self.views = encoder.eval(), reading, views
        shape = encoder.preprocessing
        fits = BATCH_PIXELS // (shape.num_frames * shape.image_size**2)
        self.camera, self.root, self.grid = camera, root, grid
        self.batch = batch or min(max(fits, 16), 128)
        self.precision, self.report = precision, report
        self.digest = digest_encoder(encoder)
        self.encoded, self.seconds = 0, 0.0  # clips that were computed here, and how long it took
        self._stores: dict[str, ClipStore] = {}

    def prepare(self, requests: Iterable[Request]) -> None:
        """Encode every clip that is missing, each once, whichever probe asks for it."""
        before = self.encoded
        for store, clips, cells in self._merged(requests):
            store.complete(clips, cells, self.encode, self.batch, self.report)
        if self.encoded > before and digest_encoder(self.encoder) != self.digest:
            raise RuntimeError(
                f"{type(self.encoder).__name__} changed itself while it encoded; its features in "
                f"{', '.join(str(store.folder) for store in self._stores.values())} depend on the "
                "order of the clips: delete them, and make its forward pass leave its weights alone"
            )

    def _merged(self, requests: Iterable[Request]) -> Iterator[tuple[ClipStore, Clips, bool]]:
        """Put together what is asked of each shard; those with cells come first."""
        asked: dict[tuple[str, tuple[int, ...], bool], list[tuple[ClipStore, Clips]]] = {}
        for part, clips, cells in requests:
            store, clips = self._placed(part, clips)
            for window in self.windows(clips):
                key = (store.folder.name, window.offsets, cells)
                asked.setdefault(key, []).append((store, window))
        for (_, offsets, cells), found in sorted(asked.items(), key=lambda item: not item[0][2]):
            merged = Clips(
                np.concatenate([clips.episode for _, clips in found]),
                np.concatenate([clips.start for _, clips in found]),
                offsets,
            )
            yield found[0][0], merged, cells

    def missing(self, requests: Iterable[Request]) -> int:
        """Count the clips that are to be encoded; those of several requests count once."""
        return sum(count for *_, count in self._lacking(requests))

    def outlook(self, requests: Iterable[Request]) -> tuple[int, float, int]:
        """Say how many clips are to be encoded, and about how many seconds and bytes they take.

        Encodes a few clips of each length to find out.
        """
        missing, seconds, size = 0, 0.0, 0
        each: dict[tuple[int, bool], tuple[float, int]] = {}
        for store, clips, cells, count in self._lacking(requests):
            kind = len(clips.offsets), cells
            if kind not in each:
                each[kind] = self._measured(store, clips, cells)
            took, row = each[kind]
            missing, seconds, size = missing + count, seconds + count * took, size + count * row
        return missing, seconds, size

    def _lacking(self, requests: Iterable[Request]) -> Iterator[tuple[ClipStore, Clips, bool, int]]:
        """Yield what is asked of each shard that is not complete, and how many clips are new."""
        counted: dict[tuple[Path, tuple[int, ...]], set[int]] = {}
        for store, clips, cells in self._merged(requests):
            before = counted.setdefault((store.folder, clips.offsets), set())
            new = store.missing(clips, cells) - before  # those with cells came first
            before |= new
            if new:
                yield store, clips, cells, len(new)

    def _measured(self, store: ClipStore, clips: Clips, cells: bool) -> tuple[float, int]:
        """Return the seconds and bytes that a clip takes."""
        (video,) = read_video(store.whole, clips.taken(np.zeros(1, int)), self.camera, 1)
        video = video.repeat(min(len(clips.start), 8), 1, 1, 1, 1)
        known = self.encoded, self.seconds
        self.encode(video[:1], cells)  # the first call costs more
        began = time.perf_counter()
        found = self.encode(video, cells)
        took = _since(began) / len(video)
        self.encoded, self.seconds = known  # that was no part of the work
        row = found.vectors[0].numel() * 4
        return took, row if found.cells is None else row + found.cells[0].numel() * 2

    def vectors(self, part: str, clips: Clips) -> Float[Tensor, "n f"]:
        """Return one vector per clip."""
        return self._shown(part, clips, "vectors")

    def cells(self, part: str, clips: Clips) -> Float[Tensor, "n g g d"]:
        """Return one vector per cell of the picture, in half precision."""
        return self._shown(part, clips, "cells")

    def _shown(self, part: str, clips: Clips, kind: Literal["vectors", "cells"]) -> Tensor:
        self.prepare([Request(part, clips, kind == "cells")])
        store, clips = self._placed(part, clips)
        found = [
            store.read(shard_name(window.offsets), kind, store.rows(window))
            for window in self.windows(clips)
        ]
        if self.reading == "difference":
            found = [after - before for before, after in pairwise(found)]
        return torch.cat(found, -1)

    def windows(self, clips: Clips) -> list[Clips]:
        """Return what the encoder is given for each clip; the first frame of each is frame 0."""
        shown = clips.offsets
        if self.encoder.preprocessing.num_frames == 1:
            given = [(offset,) for offset in shown]
        elif self.encoder.preprocessing.num_frames == 2:
            given = list(pairwise(shown))
        else:
            given = [shown]
        return [
            Clips(clips.episode, clips.start + some[0], tuple(offset - some[0] for offset in some))
            for some in given
        ]

    @torch.inference_mode()
    def encode(self, video: UInt8[Tensor, "b k 3 h w"], cells: bool = False) -> Encoded:
        """Encode clips: the network's own frames, or fewer that are then repeated.

        Raises:
            DataError: the frames are not of the size that the encoder takes.
            ConfigError: they cannot fill its clips, or its tokens make no cells.
        """
        began = time.perf_counter()
        encoder, shown = self.encoder, video.shape[1]
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        try:
            video = encoder.prepare(video.to(device))
        except ConfigError as error:
            raise DataError(f"camera {self.camera!r}: {error}") from error
        frames = encoder.preprocessing.num_frames
        if frames % shown:
            raise ConfigError(f"a clip of {frames} frames cannot be filled with {shown} frames")
        video = video.repeat_interleave(frames // shown, 1)
        enabled = self.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            tokens = encoder(video)
        tokens = in_time(tokens.float(), shown)
        vectors, squares = encoder.pool(tokens).cpu(), None
        if cells:
            seen = tokens[:, :, 1:] if encoder.pooling == "cls" else tokens  # a CLS has no place
            squares = as_cells(seen, self.grid).cpu()
        self.encoded, self.seconds = self.encoded + len(video), self.seconds + _since(began)
        return Encoded(vectors, squares)

    @property
    def size_on_disk(self) -> int:
        """How many bytes the features take, of all data sets that were read."""
        return sum(store.size_on_disk for store in self._stores.values())

    def _placed(self, part: str, clips: Clips) -> tuple[ClipStore, Clips]:
        """Return the store of a part's data set, and the clips as counted there."""
        whole, placed = whole_clips(self.views[part], clips)
        if whole.fingerprint not in self._stores:
            about = {
                "code": CODE,
                "encoder": self.digest,
                "grid": self.grid,
                "precision": self.precision,
            }
            self._stores[whole.fingerprint] = ClipStore(self.root, about, whole, self.camera)
        return self._stores[whole.fingerprint], placed


def _since(began: float) -> float:
    return time.perf_counter() - began


def readings(encoder: Encoder) -> tuple[Reading, ...]:
    """Say how an encoder can be shown clips."""
    frames = encoder.preprocessing.num_frames
    if frames == 1:
        return ("concatenation", "difference")
    return ("pair",) if frames == 2 else ("repeated",)


def in_time(tokens: Float[Tensor, "b u n d"], shown: int) -> Float[Tensor, "b k n d"]:
    """Average the time steps of tokens to one per frame that was shown, where there are more."""
    steps = tokens.shape[1]
    return reduce(tokens, "b (k r) n d -> b k n d", "mean", k=shown if steps > shown else steps)


def as_cells(tokens: Float[Tensor, "b k n d"], grid: int) -> Float[Tensor, "b g g k*d"]:
    """Average tokens over the cells of a grid, time steps side by side.

    Raises:
        ConfigError: the tokens make no square.
    """
    side = isqrt(tokens.shape[2])
    if side * side != tokens.shape[2]:
        raise ConfigError(f"{tokens.shape[2]} tokens of a frame make no square of cells")
    cells = rearrange(tokens, "b k (i j) d -> b (k d) i j", i=side)
    if side > grid:
        cells = F.adaptive_avg_pool2d(cells, grid)
    return rearrange(cells, "b d i j -> b i j d")


def digest_encoder(encoder: Encoder) -> str:
    """Digest all that the features depend on: class, pixel contract, pooling and every weight."""
    digest = hashlib.sha256()
    about = f"{type(encoder)} {encoder.preprocessing} {encoder.pooling}"
    digest.update(about.encode())
    for name, value in encoder.state_dict().items():
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + raw.tobytes())
    return digest.hexdigest()


class DescriptorReader:
    """A floor that looks at the picture and learns nothing; computed when asked, kept in memory."""

    def __init__(
        self,
        describe: Callable[[UInt8[Tensor, "b k 3 h w"]], Float[Tensor, "b g g d"]],
        views: Views,
        camera: str,
    ) -> None:
        self.describe, self.views, self.camera = describe, views, camera
        self._kept: dict[tuple[str, bytes, tuple[int, ...]], Tensor] = {}

    def prepare(self, requests: Iterable[Request]) -> None:
        """Do nothing: descriptors are cheap."""

    def vectors(self, part: str, clips: Clips) -> Float[Tensor, "n f"]:
        """Return the cells of each clip, one after the other."""
        return self.cells(part, clips).flatten(1)

    def cells(self, part: str, clips: Clips) -> Float[Tensor, "n g g d"]:
        """Describe each cell of the picture."""
        key = part, np.stack([clips.episode, clips.start]).tobytes(), clips.offsets
        if key not in self._kept:
            videos = read_video(self.views[part], clips, self.camera, batch=256)
            self._kept[key] = torch.cat([self.describe(video) for video in videos])
        return self._kept[key]


class StateReader:
    """Floor without vision: the robot's state at the first frame shown."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def prepare(self, requests: Iterable[Request]) -> None:
        """Do nothing: states are at hand."""

    def vectors(self, part: str, clips: Clips) -> Float[Tensor, "n f"]:
        """Return the states."""
        episodes, first = self.views[part], clips.offsets[0]
        found = [episodes.read(e, at + first, ())["state"] for e, at in clips.by_episode()]
        return torch.cat(found)

    def cells(self, part: str, clips: Clips) -> None:
        """See nothing."""


class TaskReader:
    """Floor without vision: which of the ``known`` tasks it is; all zeros for another task."""

    def __init__(self, views: Views, known: tuple[str, ...]) -> None:
        self.views, self.known = views, known

    def prepare(self, requests: Iterable[Request]) -> None:
        """Do nothing: tasks are at hand."""

    def vectors(self, part: str, clips: Clips) -> Float[Tensor, "n f"]:
        """Return one-hot tasks."""
        names = np.array(self.views[part].tasks)[clips.episode]
        same = names[:, None] == np.array(self.known)[None]
        return torch.from_numpy(same.astype(np.float32))

    def cells(self, part: str, clips: Clips) -> None:
        """See nothing."""


def floors(views: Views, camera: str, grid: int = 8) -> dict[str, Reader]:
    """Name the floors that need no network."""
    looking = {
        "raw pixels": descriptors.raw_pixels,
        "raw pixel change": descriptors.pixel_difference,
        "gradients (HOG)": descriptors.hog,
        "flow histogram": descriptors.flow_histogram,
    }
    found: dict[str, Reader] = {
        name: DescriptorReader(partial(describe, cells=grid), views, camera)
        for name, describe in looking.items()
    }
    if views["train"].state_names:
        found["position only"] = StateReader(views)
    if len(known := tuple(sorted(set(views["train"].tasks)))) > 1:
        found["task only"] = TaskReader(views, known)
    return found

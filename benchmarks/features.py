"""Samples per second of training a world model on kept features, against encoding every batch.

A step reads a batch (kept features, or pixels from the frame cache), computes the loss of V-JEPA
2-AC, its gradient and AdamW, without compilation. The encoder is V-JEPA 2's, small and with random
weights; the predictor has about the share of its parameters that V-JEPA 2-AC's has. The losses of
the first batch are compared before: equal on a CPU for features in float32.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, NamedTuple

import torch
import tyro
from timing import Work, emit, measure, ratio

from saccade.data.cache.features import FeaturedEpisodes
from saccade.data.loader import Loader
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ClipWindow
from saccade.experiments.source import SourceConfig
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes.world_model import AXES
from saccade.train.config import TrainConfig
from saccade.train.distributed import device_of
from saccade.train.evaluate import autocast, move
from saccade.train.optim import adamw
from saccade.types import Clip, Objective

KEPT = ("float32", "float16", "bfloat16")
ROUNDED = 0.01  # share by which the loss may differ where features are rounded


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time training on kept features.

    Args:
        image_size: of the frames, in pixels; patches have 16.
        dim: width of the encoder, a multiple of 64.
        depth: blocks of the encoder.
        predictor_dim: width of the predictor, a multiple of 64.
        predictor_depth: blocks of the predictor.
        episodes: of the toy world; four fifths of them are encoded.
        length: frames of an episode.
        frames: of a clip.
        batch: clips of a step.
        repeats: rounds; each variant gets one slice of each.
        device: where to compute.
        precision: bfloat16 is autocast over float32 weights.
    """

    image_size: int = 256
    dim: int = 384
    depth: int = 12
    predictor_dim: int = 256
    predictor_depth: int = 8
    episodes: int = 5
    length: int = 4
    frames: int = 4
    batch: int = 1
    repeats: int = 7
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"


class Ready(NamedTuple):
    """A training that may begin, and what preparing it took."""

    objective: Objective
    clips: Iterator[Clip]
    seconds: float
    frames: int
    bytes_per_frame: int


def training(options: Options, cache: str) -> WorldModelTraining:
    side = options.image_size // 16
    encoder = VJepa2Config(
        image_size=options.image_size,
        dim=options.dim,
        depth=options.depth,
        heads=options.dim // 64,
        mlp=4 * options.dim,
        frames="each",
    )
    predictor = ActionPredictorConfig(
        grid=(side, side),
        feature_dim=options.dim,
        dim=options.predictor_dim,
        depth=options.predictor_depth,
        heads=options.predictor_dim // 64,
        mlp=4 * options.predictor_dim,
        state_size=len(AXES),
        action_size=len(AXES),
    )
    world = ActionWorldModelConfig(
        encoder=encoder,
        predictor=predictor,
        step_seconds=0.1,
        crop="square",
        gripper="open_is_1",
        state_names=AXES,
        action_names=AXES,
    )
    data = SyntheticConfig(
        image_size=options.image_size, episodes=options.episodes, length=options.length
    )
    return WorldModelTraining(
        objective=ActionConditionedConfig(model=world),
        source=SourceConfig(episodes=data, cache=cache),
        window=ClipWindow(num_frames=options.frames),
        train=TrainConfig(
            batch_size=options.batch, device=options.device, precision=options.precision
        ),
    )


def ready(training: WorldModelTraining) -> Ready:
    """Prepare as ``run`` does; the same weights and the same batches for every variant."""
    objective = training.build()
    parts = training.open()
    begun = time.perf_counter()
    parts = training.prepare(objective, parts, lambda _: None)
    seconds, size = time.perf_counter() - begun, 3 * training.image_size() ** 2
    if isinstance(parts.train, FeaturedEpisodes):
        size = parts.train.kept.store.row_bytes
    loader = Loader(
        parts.train, training.window, parts.camera, training.train.batch_size, training.train.seed
    )
    frames = sum(parts.train.lengths) + sum(parts.select.lengths)
    device = device_of(training.train.device)
    return Ready(objective.to(device), loader.batches(0), seconds, frames, size)


def step(variant: Ready, options: Options) -> Work:
    """Return one update of the weights, reading included."""
    device = torch.device(options.device)
    optimizer = adamw(variant.objective, 1e-4, 0.05, (0.9, 0.95))

    def update() -> int:
        clip = move(next(variant.clips), device)
        with autocast(options.precision, device):
            loss, _ = variant.objective(clip)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return options.batch

    return update


@torch.no_grad()
def first_loss(variant: Ready, options: Options) -> float:
    device = torch.device(options.device)
    with autocast(options.precision, device):
        return float(variant.objective(move(next(variant.clips), device))[0])


def differences(variants: dict[str, Ready], options: Options) -> dict[str, float]:
    """Return by which share of it the loss of the first batch differs; refuse too much."""
    losses = {name: first_loss(variant, options) for name, variant in variants.items()}
    apart = {name: abs(losses[name] / losses["encode"] - 1) for name in KEPT}
    exact = options.device == "cpu" and options.precision == "float32"
    for name, value in apart.items():
        allowed = 0.0 if exact and name == "float32" else ROUNDED
        if not value <= allowed:
            raise AssertionError(
                f"the loss on features kept in {name} is {losses[name]}, and {losses['encode']} "
                "where each batch is encoded"
            )
    return apart


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as cache:
        whole = training(options, cache)
        variants = {
            "encode": ready(whole),
            **{name: ready(replace(whole, features=name)) for name in KEPT},
        }
        apart = differences(variants, options)
        timed = {name: step(variants[name], options) for name in ("encode", "float32", "float16")}
        rates = measure(timed, options.repeats)
    kept = variants["float32"]
    emit(
        {
            "benchmark": "features",
            "unit": "samples/s",
            "ours": median(rates["float32"]),
            "peer": "encoding every batch",
            "peer_samples_per_second": median(rates["encode"]),
            "ratio": ratio(rates["float32"], rates["encode"]),
            "ratio_float16": ratio(rates["float16"], rates["encode"]),
            "build_frames_per_second": kept.frames / kept.seconds,
            "bytes_per_frame": {
                "pixels" if name == "encode" else name: variant.bytes_per_frame
                for name, variant in variants.items()
            },
            "loss_difference": apart,
            "device": options.device,
            "precision": options.precision,
            "threads": torch.get_num_threads(),
            "batch": options.batch,
            "sizes": {
                "image_size": options.image_size,
                "frames": options.frames,
                **whole.sizes(kept.objective),
            },
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))

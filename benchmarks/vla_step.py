"""Seconds and memory of fine-tuning OpenVLA's 0.5B sibling at full size, by exchange of eyes.

The architecture is Stanford-ILIAD/prism-qwen25-extra-dinosiglip-224px-0_5b's (DINOv2-L and SigLIP
So400m at 224 pixels, a fused projector, Qwen 2.5 of 24 layers) with random weights, which cost what
trained ones do; only its tokenizer is a small one. The peer of every mode is ``keep``: the model's
own towers, adapters alone. A step is forward, backward and AdamW over what learns, as in
``vla:finetune``; each mode runs in a fresh process, for its peak of memory.
"""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch
import tyro
from timing import emit
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from saccade.config import Config
from saccade.models.vit import ViTConfig
from saccade.train.evaluate import autocast, move
from saccade.train.layout import blocks
from saccade.train.log import peak_memory_mb
from saccade.train.optim import adamw
from saccade.types import Clip
from saccade.vla.eyes import EyesConfig, ProjectorConfig
from saccade.vla.imitation import VlaImitation, VlaImitationConfig
from saccade.vla.loading import SmallOpenVlaConfig
from saccade.vla.openvla import OpenVlaConfig
from saccade.vla.policy import AdaptConfig, VlaPolicy
from saccade.vla.swap import SwapConfig, swap
from saccade.vla.towers import PublishedTowerConfig

TEXTS = ("put the bowl on the plate", "open the top drawer")
MODES: dict[str, tuple[Literal["keep", "replace", "replace_one", "add"], bool]] = {
    "keep": ("keep", False),  # and whether an encoder of ours goes in
    "re-projected": ("replace", False),
    "replace": ("replace", True),
    "replace-one": ("replace_one", True),
    "add": ("add", True),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time a step of fine-tuning with each exchange of eyes.

    Args:
        modes: which; ``keep`` is always among them.
        size: ``full``, or ``debug`` to try the script.
        four_bit: keep the language model in 4 bits.
        activations: recompute them in the backward pass, as ``vla:finetune`` does.
        batch: samples of a step.
        steps: timed, after one that is not.
        device: where to compute.
        precision: bfloat16 is autocast.
        dtype: of the weights that do not learn.
    """

    modes: tuple[str, ...] = tuple(MODES)
    size: Literal["full", "debug"] = "full"
    four_bit: bool = False
    activations: bool = True
    batch: int = 2
    steps: int = 3
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    dtype: Literal["float32", "bfloat16"] = "float32"


def sibling() -> OpenVlaConfig:
    """Return the published sizes."""
    small = SmallOpenVlaConfig(texts=TEXTS, family="qwen2", image_size=224).described()
    shape: dict[str, Any] = {"heads": 16, "patch": 14, "image_size": 224}
    towers = (
        PublishedTowerConfig(kind="dinov2", dim=1024, depth=24, hidden=4096, **shape),
        PublishedTowerConfig(kind="siglip", dim=1152, depth=27, hidden=4304, **shape),
    )
    qwen = json.loads(small.language) | {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
    }
    projector = ProjectorConfig(source=1024 + 1152, target=896, depth=3)
    return replace(
        small,
        eyes=EyesConfig(towers=towers, projector=projector),
        language=json.dumps(qwen),
        prompts=replace(small.prompts, rows=qwen["vocab_size"]),
        pixels=replace(small.pixels, frame=256),
    )


@dataclass(frozen=True, kw_only=True)
class Swapped(Config[VlaPolicy]):
    """A model with other eyes."""

    base: Config[VlaPolicy]
    swap: SwapConfig
    dtype: Literal["float32", "bfloat16"]

    def build(self) -> VlaPolicy:
        """Construct it, with fresh weights."""
        policy = self.base.build()
        side = policy.config.pixels.size

        def pictures(frames: int) -> Iterator[Tensor]:
            for _ in range(4):  # what a map is fitted to is not timed
                yield torch.randint(0, 256, (2, frames, 3, side, side), dtype=torch.uint8)

        swap(policy, self.swap, pictures)
        if self.dtype == "bfloat16":
            new = set(policy.new_parts())
            for part, modules in policy.parts().items():
                for module in modules if part not in new else ():
                    module.to(torch.bfloat16)
        return policy


def objective(mode: str, options: Options) -> VlaImitation:
    """Return what is trained."""
    full = options.size == "full"
    little_one = SmallOpenVlaConfig(texts=TEXTS, family="qwen2", depth=1)
    base: Config[Any] = sibling() if full else little_one
    big = {"image_size": 224, "patch": 16, "dim": 768, "depth": 12, "heads": 12}
    little = {"image_size": 64, "patch": 8, "dim": 24, "depth": 1, "heads": 2}
    ours = ViTConfig(num_frames=2, tubelet=2, **(big if full else little))
    kind, ours_in = MODES[mode]
    how = SwapConfig(mode=kind, encoder=ours if ours_in else None)
    policy = Swapped(base=base, swap=how, dtype=options.dtype)
    adapt = AdaptConfig(four_bit=options.four_bit)
    torch.manual_seed(0)
    found = VlaImitationConfig(policy=policy, adapt=adapt).build()
    bounds: Any = found.policy
    bounds.bounds.set([-1.0] * 7, [1.0] * 7, [True] * 6 + [False], [False] * 7)
    return found


def batch(policy: VlaPolicy, options: Options) -> Clip:
    """Return samples of noise: none of it changes what a step costs."""
    side, samples = policy.preprocessing.image_size, options.batch
    history = policy.config.history
    return Clip(
        video=torch.randint(0, 256, (samples, history, 1, 3, side, side), dtype=torch.uint8),
        state=torch.zeros(samples, history, 4),
        action=torch.rand(samples, 1, 7) * 2 - 1,
        is_pad=torch.zeros(samples, 1, dtype=torch.bool),
        gap=torch.zeros(samples, dtype=torch.int64),
        episode=torch.zeros(samples, dtype=torch.int64),
        key=torch.arange(samples),
        text=[TEXTS[i % len(TEXTS)] for i in range(samples)],
    )


def timed(mode: str, options: Options) -> dict[str, Any]:
    """Run a few steps in this process."""
    found = objective(mode, options).to(options.device)
    if options.activations:
        for block in blocks(found):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    optimizer = adamw(found, 5e-4, 0.0, (0.9, 0.999), "adamw")
    clip = move(batch(found.policy, options), torch.device(options.device))
    found.train()
    seconds, losses = [], []
    for _ in range(1 + options.steps):
        began = perf_counter()
        with autocast(options.precision, torch.device(options.device)):
            loss, _ = found(clip)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # which waits for a GPU
        seconds.append(perf_counter() - began)
    if not all(math.isfinite(loss) for loss in losses):
        raise SystemExit(f"{mode}: the loss is {losses}")
    return {
        "seconds": median(seconds[1:]),
        "peak_mb": peak_memory_mb(torch.device(options.device)),
        "million": found.size / 1e6,
        "million_trained": sum(p.numel() for p in found.parameters() if p.requires_grad) / 1e6,
    }


def main(options: Options) -> None:
    """Time every mode, each in a fresh process, and print one line for each."""
    peer: dict[str, Any] = {}
    for mode in dict.fromkeys(("keep", *options.modes)):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(timed, mode, options).result()
        peer = peer or found
        emit(
            {
                "benchmark": "vla_step",
                "mode": mode,
                "size": options.size,
                "four_bit": options.four_bit,
                "batch": options.batch,
                "device": options.device,
                "precision": options.precision,
                "weights": options.dtype,
                "samples_per_second": options.batch / found["seconds"],
                "ratio": peer["seconds"] / found["seconds"],
                **found,
            }
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

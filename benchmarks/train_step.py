"""Samples per second of one training step: our models against the same ones of common parts.

A step is forward, backward and fused AdamW, without compilation. The peers are

    stock         our model and weights, each ``Block`` an ``nn.TransformerEncoderLayer``
    transformers  ``VideoMAEForPreTraining`` of the same shape, for VideoMAE only; it is given
                  normalised pixels and drawn masks, which ours makes within the step

Losses and gradients of ours and stock are compared first; those of transformers in the tests.
Peak memory is that of a fresh process: resident on a CPU, allocated on a GPU.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any, Literal, NamedTuple, get_args

import torch
import tyro
from timing import Work, emit, measure, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig as TheirConfig
from transformers import VideoMAEForPreTraining

from saccade.commands.common import load_recipe
from saccade.data.loader import fixed_batches
from saccade.data.synthetic import SyntheticConfig
from saccade.experiments.training import Training
from saccade.nn.transformer import Block
from saccade.objectives.video_mae import VideoMAE
from saccade.train.evaluate import autocast, move
from saccade.train.log import peak_memory_mb
from saccade.train.optim import adamw
from saccade.types import Clip

Method = Literal[
    "two_stream:original", "two_stream:strong", "single_stream:strong", "video_mae:original"
]
METHODS: tuple[Method, ...] = get_args(Method)
HEAVY = [  # imported once for all the fresh processes
    "saccade.experiments.training",
    "transformers.models.videomae.modeling_videomae",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the training step of each method.

    Args:
        methods: recipes, without their size.
        size: of the recipes.
        batch: samples of a step.
        repeats: rounds; each variant gets one slice of each.
        device: where to compute.
        precision: bfloat16 is autocast over float32 weights.
        peak_tflops: dense bfloat16 peak of the GPU, to report our share of it; the default is
            that of an H100 SXM and of an H200.
    """

    methods: tuple[Method, ...] = METHODS
    size: Literal["tiny", "small", "base"] = "base"
    batch: int = 4
    repeats: int = 7
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    peak_tflops: float = 989.0


class Model(NamedTuple):
    """What is trained, and its loss on one fixed batch."""

    module: nn.Module
    loss: Callable[[], Tensor]


def ours(training: Training, clip: Clip) -> Model:
    objective = training.build()
    return Model(objective, lambda: objective(clip)[0])


def stock(training: Training, clip: Clip) -> Model:
    objective = training.build()
    replace_blocks(objective)
    return Model(objective, lambda: objective(clip)[0])


def transformers(training: Training, clip: Clip) -> Model:
    objective = training.build()
    assert isinstance(objective, VideoMAE)
    shape, encoder = objective.config, objective.encoder
    model = VideoMAEForPreTraining(
        TheirConfig(
            image_size=shape.encoder.image_size,
            patch_size=shape.encoder.patch,
            num_frames=shape.encoder.num_frames,
            tubelet_size=shape.encoder.tubelet,
            hidden_size=shape.encoder.dim,
            num_hidden_layers=shape.encoder.depth,
            num_attention_heads=shape.encoder.heads,
            intermediate_size=4 * shape.encoder.dim,
            decoder_hidden_size=shape.decoder_dim,
            decoder_num_hidden_layers=shape.decoder_depth,
            decoder_num_attention_heads=shape.decoder_heads,
            decoder_intermediate_size=4 * shape.decoder_dim,
            use_mean_pooling=False,
        )
    )
    model.set_attn_implementation("sdpa")
    pixels = (clip["video"][:, :, 0].float().cpu() / 255 - encoder.mean) / encoder.std
    hide = objective.mask(clip).hide.cpu()
    hidden = torch.zeros(len(hide), len(encoder.position), dtype=torch.bool).scatter(1, hide, True)
    pixels, hidden = pixels.to(clip["key"].device), hidden.to(clip["key"].device)
    return Model(model, lambda: model(pixels, bool_masked_pos=hidden).loss)


VARIANTS = {"ours": ours, "stock": stock, "transformers": transformers}


def replace_blocks(module: nn.Module) -> None:
    """Put PyTorch's own layer, with the same weights, in the place of every block."""
    for name, child in module.named_children():
        if isinstance(child, Block):
            setattr(module, name, stock_layer(child))
        else:
            replace_blocks(child)


def stock_layer(block: Block) -> nn.TransformerEncoderLayer:
    dim = block.attn.proj.in_features
    layer = nn.TransformerEncoderLayer(
        dim, block.attn.heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
    )
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj.": "self_attn.out_proj.",
        "mlp.0.": "linear1.",
        "mlp.2.": "linear2.",
    }
    weights = {}
    for name, value in block.state_dict().items():
        for start, theirs in names.items():
            name = name.replace(start, theirs)
        weights[name] = value
    layer.load_state_dict(weights)
    return layer


def load(method: str, variant: str, options: Options) -> Model:
    """Build one variant with a batch of the synthetic world, on the device."""
    training, device = load_recipe(f"{method}_{options.size}"), torch.device(options.device)
    world = SyntheticConfig(image_size=training.image_size(), episodes=options.batch, length=40)
    (clip,) = fixed_batches(
        world.build(), training.window, "front", options.batch, options.batch, seed=0
    )
    module, loss = VARIANTS[variant](training, move(clip, device))
    return Model(module.to(device), loss)


def step(model: Model, options: Options) -> Work:
    """Return one update of the weights."""
    optimizer, device = adamw(model.module, 1e-4, 0.05, (0.9, 0.95)), torch.device(options.device)

    def update() -> int:
        with autocast(options.precision, device):
            loss = model.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return options.batch

    return update


def peak_mb(method: str, variant: str, options: Options) -> float:
    """Return the most memory that two steps need; for a process that has done nothing else."""
    update = step(load(method, variant, options), options)
    for _ in range(2):  # the first makes the optimizer's moments, the second meets them
        update()
    return peak_memory_mb(torch.device(options.device))


def require_equal(one: Model, other: Model) -> None:
    """Refuse to compare models that differ in the loss or in the gradient of what they share."""
    losses = [model.loss() for model in (one, other)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    for loss in losses:
        loss.backward()
    shared = dict(other.module.named_parameters())
    for name, parameter in one.module.named_parameters():
        if parameter.grad is not None and name in shared:
            grad, scale = shared[name].grad, parameter.grad.abs().max().item()
            torch.testing.assert_close(grad, parameter.grad, rtol=0, atol=1e-3 * scale + 1e-9)
    for model in (one, other):
        model.module.zero_grad()


def gpu_share(model: Model, samples_per_second: float, options: Options) -> dict[str, Any]:
    """Return what the GPU computes, in operations that the model needs (a multiply-add is two)."""
    with FlopCounterMode(display=False) as counter:
        model.loss().backward()
    tflops = counter.get_total_flops() / options.batch * samples_per_second / 1e12
    return {
        "gpu": torch.cuda.get_device_name(),
        "tflops": tflops,
        "peak_tflops": options.peak_tflops,
        "share_of_peak": tflops / options.peak_tflops,
    }


def compare(method: str, options: Options) -> dict[str, Any]:
    """Measure one method and its peers."""
    names = [name for name in VARIANTS if name != "transformers" or method.startswith("video_mae")]
    context = get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        peaks = {name: fresh.submit(peak_mb, method, name, options).result() for name in names}
    models = {name: load(method, name, options) for name in names}
    require_equal(models["ours"], models["stock"])
    rates = measure({name: step(models[name], options) for name in names}, options.repeats)
    theirs = rates.get("transformers")
    result = {
        "benchmark": "train_step",
        "unit": "samples/s",
        "method": method,
        "ours": median(rates["ours"]),
        "stock": median(rates["stock"]),
        "ratio": ratio(rates["ours"], rates["stock"]),
        "transformers": median(theirs) if theirs else None,
        "ratio_transformers": ratio(rates["ours"], theirs) if theirs else None,
        "peak_mb": peaks,
        "device": options.device,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "sizes": {
            "recipe": options.size,
            "image_size": load_recipe(f"{method}_{options.size}").image_size(),
            "parameters": sum(p.numel() for p in models["ours"].module.parameters()),
        },
    }
    if options.device == "cuda":
        result |= gpu_share(models["ours"], result["ours"], options)
    return result


def main(options: Options) -> None:
    for method in options.methods:
        emit(compare(method, options))


if __name__ == "__main__":
    main(tyro.cli(Options))

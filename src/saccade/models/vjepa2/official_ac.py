"""The published V-JEPA 2-AC as a world model: encoder and predictor of one official file.

The public ``vjepa2-ac-vitg.pt`` was trained with a defect of its rollout loss (its second
prediction was compared with the frame before; mended in the official code on 2025-06-20), and its
data may have moved by a second per step instead of the quarter that the paper says
(https://github.com/facebookresearch/vjepa2/issues/183): ``step_seconds`` is what you decide.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.checkpoint import load_weights
from saccade.errors import CheckpointError
from saccade.models.vjepa2.official import (
    URL,
    EncoderPart,
    convert_encoder,
    describe,
    load_encoder,
    read_parts,
)
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ENCODER, ActionWorldModel, ActionWorldModelConfig

HEADS = {1024: 16}  # of the published width


def load_ac(
    file: Path,
    *,
    step_seconds: float = 0.25,
    predictor_heads: int | None = None,
    part: EncoderPart = "target_encoder",
    dtype: torch.dtype = torch.bfloat16,
    **encoder: Any,
) -> ActionWorldModel:
    """Load both parts of an official file, in evaluation mode.

    Args:
        file: ``vjepa2-ac-vitg.pt``, or another of its layout.
        step_seconds: time from a frame to the next.
        predictor_heads: needed for widths that were never published.
        part: which encoder; in the published file the two are the same.
        dtype: of the weights in memory.
        encoder: options of ``load_encoder``.

    Raises:
        CheckpointError: the file is absent or damaged, or a tensor is missing, left over or of
            another shape, or heads are unknown.
    """
    eyes = load_encoder(file, part, frames="each", dtype=dtype, **{"num_frames": 1, **encoder})
    shape = eyes.config
    side = shape.image_size // shape.patch
    weights = read_parts(file, ("predictor",))["predictor"]
    source = f"{file} [predictor]"
    config = infer_predictor(weights, (side, side), predictor_heads, source)
    if config.feature_dim != shape.dim:
        raise CheckpointError(
            f"{source} predicts features {config.feature_dim} wide, those of the encoder in the "
            f"file are {shape.dim} wide; they do not belong together"
        )
    with torch.device("meta"):
        predictor = config.build()
    loaded = {name: value.to(dtype) for name, value in weights.items()}
    load_weights(predictor, loaded, source, assign=True)
    world = ActionWorldModelConfig(encoder=shape, predictor=config, step_seconds=step_seconds)
    return ActionWorldModel(world, eyes, predictor).eval()


def convert_ac(file: Path, folder: Path, **options: Any) -> ActionWorldModel:
    """Write an official file as a world model's folder, once; return it. ``options`` as above.

    Raises:
        CheckpointError: as ``load_ac``.
    """
    model = load_ac(file, **options)
    part = options.get("part", "target_encoder")
    kept = ("heads", "image_size", "num_frames", "dtype")
    given = {"num_frames": 1} | {name: options[name] for name in kept if name in options}
    convert_encoder(file, folder / ENCODER, part, frames="each", **given)
    origin = describe(file, "predictor")
    card = (
        f"# V-JEPA 2-AC\n\nConverted from `{origin.file}` ({origin.bytes:,} bytes, sha256 "
        f"`{origin.sha256}`), parts `{part}` and `predictor`, published at {URL}{origin.file}. A "
        f"step was taken to last {model.step_seconds:g} s.\n"
    )
    model.save_pretrained(folder, card, with_encoder=False)
    return model


def infer_predictor(
    weights: Mapping[str, Tensor], grid: tuple[int, int], heads: int | None, source: str
) -> ActionPredictorConfig:
    """Read a predictor's sizes off its tensors; heads off the published width.

    Raises:
        CheckpointError: these are not tensors of such a predictor, or heads are unknown.
    """
    names = ("predictor_embed", "action_encoder", "state_encoder", "predictor_blocks.0.mlp.fc1")
    shapes = {
        name: weights[f"{name}.weight"].shape for name in names if f"{name}.weight" in weights
    }
    if len(shapes) < len(names) or any(len(shape) != 2 for shape in shapes.values()):
        lost = sorted(set(names) - shapes.keys()) or list(names)
        raise CheckpointError(f"{source} is no action-conditioned predictor: look at {lost}")
    dim, feature_dim = shapes["predictor_embed"]
    if heads is None and dim not in HEADS:
        raise CheckpointError(
            f"{source} is {dim} wide, the published one {list(HEADS)}; its number of heads cannot "
            "be read off the tensors: give predictor_heads"
        )
    if heads is not None and HEADS.get(dim, heads) != heads:
        raise CheckpointError(
            f"{source} is {dim} wide and has {HEADS[dim]} heads; {heads} would load but predict "
            "something else: leave predictor_heads out"
        )
    blocks = {name.split(".")[1] for name in weights if name.startswith("predictor_blocks.")}
    return ActionPredictorConfig(
        grid=grid,
        feature_dim=feature_dim,
        dim=dim,
        depth=len(blocks),
        heads=heads or HEADS[dim],
        mlp=shapes["predictor_blocks.0.mlp.fc1"][0],
        state_size=shapes["state_encoder"][1],
        action_size=shapes["action_encoder"][1],
    )

"""Published models as policies, and small ones of the same kind, in the same files.

    PublishedOpenVlaConfig(folder=...)   any OpenVLA of the hub, its weights mapped into memory
    SmallOpenVlaConfig(texts=...)        towers, language model and tokenizer of a few layers, fresh

A small one has every part and every file that the large one has, and goes through the same code:
what works with it works with the large one, given the memory.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from saccade.checkpoint import (
    CONFIG,
    load_weights,
    uninitialised,
    write_atomic,
    write_weights,
)
from saccade.config import Config
from saccade.errors import CheckpointError
from saccade.models.policies.policy import LIBERO_ACTIONS
from saccade.vla import published
from saccade.vla.action_tokens import published_bounds
from saccade.vla.eyes import EyesConfig, ProjectorConfig
from saccade.vla.openvla import OpenVla, OpenVlaConfig
from saccade.vla.pixels import PixelsConfig
from saccade.vla.prompts import (
    EXTRA,
    TOKENIZER,
    PromptsConfig,
    pack,
    packed,
    small_tokenizer,
    unpack,
)
from saccade.vla.towers import PublishedTowerConfig

OURS = ("bounds.", "frequency", "reference")  # tensors of a policy that no published file has
LLAMA_ROWS, PADDING = 32064, 64  # of Llama 2's table in OpenVLA, and those that are no tokens
SMALL_ROWS = 1024
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class PublishedOpenVlaConfig(Config[OpenVla]):
    """An OpenVLA on this machine.

    Args:
        folder: as ``vla/published.py`` says, for example openvla/openvla-7b of the hub.
        statistics: the data set whose range of actions it answers in; empty takes the only one,
            and where there are several, leaves it to fine-tuning to set.
        tokenizer: another folder that has the tokenizer, where ``folder`` has none.
        towers: folders of timm's towers, where a training's file has none: DINOv2's, then SigLIP's.
        frame: side of the frames that are recorded, in pixels.
        dtype: of the weights; auto leaves them as the files have them.
    """

    folder: Path
    statistics: str = ""
    tokenizer: Path | None = None
    towers: tuple[Path, ...] = ()
    frame: int = 256
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def build(self) -> OpenVla:
        """Load the model; every tensor of the files is accounted for.

        Raises:
            CheckpointError: a file is missing or damaged, or a tensor missing, left over, or of
                another shape.
            ConfigError: there are no such statistics.
        """
        found = published.read_folder(self.folder, self.towers)
        llama = found.family == "llama"
        size = found.eyes.towers[0]
        assert isinstance(size, PublishedTowerConfig)
        names = LIBERO_ACTIONS
        bounds = None
        if self.statistics or len(found.statistics) == 1:
            bounds = published_bounds(found.statistics, self.statistics)
            if len(bounds["low"]) != len(names):
                names = tuple(f"action_{i}" for i in range(len(bounds["low"])))
        config = OpenVlaConfig(
            eyes=found.eyes,
            family=found.family,
            language=json.dumps(found.language),
            prompts=PromptsConfig(
                tokenizer=packed(self.tokenizer or self.folder),
                style=found.family,
                rows=found.language["vocab_size"],
                padding=found.padding,
                extra=0 if llama else EXTRA,
            ),
            pixels=PixelsConfig(frame=self.frame, crop="stretch", size=size.image_size),
            action_names=names,
        )
        with uninitialised():
            policy = config.build()
        fill(policy, found.weights, str(self.folder))
        if bounds is not None:
            policy.bounds.set(**bounds)
        if self.dtype != "auto":
            policy.eyes.to(DTYPES[self.dtype])
            policy.language.to(DTYPES[self.dtype])
        return policy


def fill(policy: OpenVla, weights: dict[str, torch.Tensor], source: str) -> None:
    """Give a model the tensors of files, all of them, in the files' dtype.

    Raises:
        CheckpointError: one is missing, left over, or of another shape, or two that are one in
            the model differ.
    """
    table, last = "language.model.embed_tokens.weight", "language.lm_head.weight"
    tied = policy.language.config.tie_word_embeddings
    if tied and last in weights and not weights[last].equal(weights[table]):
        raise CheckpointError(
            f"{source}: the language model's first and last tables are one in its settings, and "
            "differ in its weights; fetch the folder again"
        )
    own = {k: v for k, v in policy.state_dict().items() if k.startswith(OURS)}
    if tied:
        weights = {name: value for name, value in weights.items() if name != last}
    load_weights(policy, own | weights, source, assign=True)


@dataclass(frozen=True, kw_only=True)
class SmallOpenVlaConfig(Config[OpenVla]):
    """An OpenVLA of a few layers and fresh weights, with the true tail of the vocabulary.

    Args:
        texts: instructions that its tokenizer learns its words from.
        family: of the language model.
        dim: width of towers and language model.
        depth: of the language model; towers have one block more, whose last nothing reads.
        patch: side of a patch, in pixels.
        image_size: side of what the towers see, in pixels.
        frame: side of the frames that are recorded, in pixels; 0: the same.
        action_names: axes of a command.
    """

    texts: tuple[str, ...]
    family: Literal["llama", "qwen2"] = "llama"
    dim: int = 64
    depth: int = 2
    patch: int = 8
    image_size: int = 64
    frame: int = 0
    action_names: tuple[str, ...] = LIBERO_ACTIONS

    def build(self) -> OpenVla:
        """Construct the networks, with fresh weights."""
        return self.described().build()

    def described(self) -> OpenVlaConfig:
        """Return the config of the whole model, which names no text."""
        heads = max(1, self.dim // published.HEAD_WIDTH)
        shape: dict[str, Any] = {"depth": self.depth + 1, "heads": heads, "dim": self.dim}
        shape |= {"hidden": 4 * self.dim, "patch": self.patch, "image_size": self.image_size}
        llama = self.family == "llama"
        text = {
            "model_type": self.family,
            "vocab_size": LLAMA_ROWS if llama else SMALL_ROWS,
            "hidden_size": self.dim,
            "intermediate_size": 3 * self.dim,
            "num_hidden_layers": self.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": not llama,
        }
        return OpenVlaConfig(
            eyes=EyesConfig(
                towers=(
                    PublishedTowerConfig(kind="dinov2", **shape),
                    PublishedTowerConfig(kind="siglip", **shape),
                ),
                projector=ProjectorConfig(source=2 * self.dim, target=self.dim, depth=3),
            ),
            family=self.family,
            language=json.dumps(text),
            prompts=PromptsConfig(
                tokenizer=pack(small_tokenizer(self.texts, self.family)),
                style=self.family,
                rows=text["vocab_size"],
                padding=PADDING if llama else -1,
                extra=0 if llama else EXTRA,
            ),
            pixels=PixelsConfig(frame=self.frame or self.image_size, size=self.image_size),
            action_names=self.action_names,
        )


def write_published(policy: OpenVla, folder: Path) -> None:
    """Write an OpenVLA with its own towers in the layout of the hub."""
    config, settings = policy.config, json.loads(policy.config.language)
    llama = config.family == "llama"
    size = config.pixels.size
    names = [f"small_reg4_{config.eyes.towers[0].kind}.fresh", "small_siglip.fresh"]
    weights = published.published_weights(policy.state_dict(), config.eyes)
    record = {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "timm_model_ids": names[: len(config.eyes.towers)],
        "use_fused_vision_backbone": len(config.eyes.towers) > 1,
        "image_sizes": [size] * len(config.eyes.towers),
        "image_resize_strategy": "resize-naive",
        "n_action_bins": config.bins,
        "text_config": settings,
        "pad_to_multiple_of": PADDING if llama else -1,
        "norm_stats": {},
    }
    write_weights(folder, weights)
    write_atomic(folder / TOKENIZER, unpack(config.prompts.tokenizer))
    write_atomic(folder / CONFIG, json.dumps(record, indent=2) + "\n")

"""pi0 as the hub has it, and a small one of the same kind.

PublishedPi0Config(folder=...)   lerobot/pi0_base and what is fine-tuned from it, in the layout
                                 that transformers reads; its tokenizer is PaliGemma's
SmallPi0Config(texts=...)        a tower, a Gemma and an expert of a few layers, fresh
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saccade.checkpoint import CONFIG, load_weights, uninitialised
from saccade.config import Config
from saccade.models.hub_folder import load_network, read_json, require_transformers
from saccade.models.policies.policy import LIBERO_ACTIONS
from saccade.types import Crop
from saccade.vla.eyes import EyesConfig, ProjectorConfig
from saccade.vla.pi0 import Pi0, Pi0Config
from saccade.vla.pixels import PixelsConfig
from saccade.vla.prompts import PromptsConfig, pack, packed, small_tokenizer
from saccade.vla.towers import PublishedTowerConfig

TOWER, PROJECTOR = "model.vlm.vision_tower.", "model.vlm.multi_modal_projector.linear."
OURS = ("actions.", "states.", "reference")  # tensors of a policy that no published file has
SMALL_ROWS, HEAD_WIDTH = 1024, 16


def seen(size: int, frame: int, crop: Crop) -> PixelsConfig:
    """Return what becomes of pi0's pictures: resized, at work; of other colours, in training."""
    return PixelsConfig(
        frame=frame,
        crop=crop,
        size=size,
        filter="linear",
        jpeg=False,
        area=1.0,
        brightness=0.3,
        contrast=0.4,
        saturation=0.5,
        hue=0.0,
    )


def ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of transformers' network the names of ``Pi0``."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith(TOWER):
            found[f"eyes.towers.0.network.{name.removeprefix(TOWER)}"] = value
        elif name.startswith(PROJECTOR):
            found[f"eyes.projector.fc1.{name.removeprefix(PROJECTOR)}"] = value
        else:
            found[f"network.{name}"] = value
    return found


def described(
    settings: Any, prompts: PromptsConfig, frame: int, crop: Crop, **more: Any
) -> Pi0Config:
    """Return the config of a whole model, from that of transformers' network."""
    tower = settings.vlm_config.vision_config
    width = settings.vlm_config.text_config.hidden_size
    return Pi0Config(
        eyes=EyesConfig(
            towers=(
                PublishedTowerConfig(
                    kind="siglip",
                    dim=tower.hidden_size,
                    depth=tower.num_hidden_layers,
                    heads=tower.num_attention_heads,
                    hidden=tower.intermediate_size,
                    patch=tower.patch_size,
                    image_size=tower.image_size,
                    layer="last",
                    activation=tower.hidden_act,
                    pooling=False,
                ),
            ),
            projector=ProjectorConfig(source=tower.hidden_size, target=width, depth=1),
        ),
        settings=json.dumps(settings.to_dict()),
        prompts=prompts,
        pixels=seen(tower.image_size, frame or tower.image_size, crop),
        chunk=settings.chunk_size,
        steps=settings.num_inference_steps,
        **more,
    )


@dataclass(frozen=True, kw_only=True)
class PublishedPi0Config(Config[Pi0]):
    """A pi0 on this machine.

    Args:
        folder: config.json of model_type pi0, and safetensors.
        tokenizer: another folder that has the tokenizer (google/paligemma-3b-pt-224).
        frame: side of the frames that are recorded, in pixels; 0: what the tower sees.
        cameras: views that it is shown.
        state_size: numbers of the robot's state.
    """

    folder: Path
    tokenizer: Path | None = None
    frame: int = 0
    cameras: int = 2
    state_size: int = 8

    def build(self) -> Pi0:
        """Load the model; every tensor of the files is accounted for.

        Raises:
            CheckpointError: a file is missing or damaged, or a tensor missing, left over, or of
                another shape.
        """
        require_transformers(self.folder)
        from transformers.models.pi0.configuration_pi0 import PI0Config
        from transformers.models.pi0.modeling_pi0 import PI0ForConditionalGeneration

        settings = PI0Config.from_dict(read_json(self.folder, CONFIG))
        whole = load_network(PI0ForConditionalGeneration, settings, self.folder, ())
        prompts = PromptsConfig(
            tokenizer=packed(self.tokenizer or self.folder),
            style="paligemma",
            rows=whole.get_input_embeddings().num_embeddings,
        )
        config = described(
            settings,
            prompts,
            self.frame,
            "pad",
            cameras=self.cameras,
            state_size=self.state_size,
        )
        with uninitialised():
            policy = config.build()
        own = {k: v for k, v in policy.state_dict().items() if k.startswith(OURS)}
        load_weights(policy, own | ours(whole.state_dict()), str(self.folder), assign=True)
        return policy


@dataclass(frozen=True, kw_only=True)
class SmallPi0Config(Config[Pi0]):
    """A pi0 of a few layers and fresh weights.

    Args:
        texts: instructions that its tokenizer learns its words from.
        dim: width of tower and language model; the expert has half of it.
        depth: layers of each.
        patch: side of a patch, in pixels.
        image_size: side of what the tower sees, in pixels.
        frame: side of the frames that are recorded, in pixels; 0: the same.
        chunk: commands of an answer.
        action_names: axes of a command.
        state_size: numbers of the robot's state.
        cameras: views.
    """

    texts: tuple[str, ...]
    dim: int = 64
    depth: int = 2
    patch: int = 8
    image_size: int = 64
    frame: int = 0
    chunk: int = 10
    action_names: tuple[str, ...] = LIBERO_ACTIONS
    state_size: int = 4
    cameras: int = 1

    def build(self) -> Pi0:
        """Construct the networks, with fresh weights."""
        require_transformers(Path(CONFIG))
        return self.described().build()

    def described(self) -> Pi0Config:
        """Return the config of the whole model, which names no text."""
        prompts = PromptsConfig(
            tokenizer=pack(small_tokenizer(self.texts, "paligemma")),
            style="paligemma",
            rows=SMALL_ROWS,
        )
        return described(
            self.settings(),
            prompts,
            self.frame,
            "square",
            action_names=self.action_names,
            state_size=self.state_size,
            cameras=self.cameras,
        )

    def settings(self) -> Any:
        """Return the sizes in transformers' words."""
        from transformers.models.pi0.configuration_pi0 import PI0Config

        heads = max(1, self.dim // (2 * HEAD_WIDTH))
        shape: dict[str, Any] = {
            "model_type": "gemma",
            "num_hidden_layers": self.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": 1,
            "head_dim": HEAD_WIDTH,
        }
        tower = {
            "model_type": "siglip_vision_model",
            "hidden_size": self.dim,
            "intermediate_size": 4 * self.dim,
            "num_hidden_layers": max(2, self.depth),
            "num_attention_heads": heads,
            "patch_size": self.patch,
            "image_size": self.image_size,
            "vision_use_head": False,
        }
        text = {"hidden_size": self.dim, "intermediate_size": 3 * self.dim}
        text["vocab_size"] = SMALL_ROWS
        return PI0Config(
            vlm_config={
                "model_type": "paligemma",
                "text_config": {**shape, **text},
                "vision_config": tower,
                "projection_dim": self.dim,
                "image_token_id": SMALL_ROWS,
            },
            dit_config={
                **shape,
                "hidden_size": self.dim // 2,
                "intermediate_size": 2 * self.dim,
            },
            chunk_size=self.chunk,
        )

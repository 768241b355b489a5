"""The video encoder of V-JEPA 2: a vision transformer over tubelets with rotary positions.

A clip is cut into tubelets of ``tubelet`` frames by ``patch`` x ``patch`` pixels, in the order
(time, row, column); each is one token. There is no position table, no CLS and no register, so any
whole number of tubelets will do: positions are counted in the clip at hand.
Re-implemented from the facts in arXiv 2506.09985 and https://github.com/facebookresearch/vjepa2
(``src/models/vision_transformer.py``); the names of the weights are those of its files.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.vit import IMAGENET_MEAN, IMAGENET_STD
from saccade.models.vjepa2.block import EPS, Block
from saccade.models.vjepa2.rope import Style, Table, axis_width, table, working_dtype
from saccade.types import Encoder, Preprocessing

PROBE_GRID = 4  # patches along each side of the image that fingerprints are taken from
PROBES = 64  # numbers of a fingerprint


@dataclass(frozen=True, kw_only=True)
class VJepa2Config(Config["VJepa2"]):
    """Shape of the encoder; ``vit_large``, ``vit_huge`` and ``vit_giant`` are the published ones.

    Args:
        image_size: height and width of the frames that it was trained on, in pixels.
        num_frames: frames of a clip that it was trained on. Others are welcome, see above.
        tubelet: frames of one token.
        patch: side of a patch, in pixels.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads; no file says how many, and a wrong number is silently wrong.
        mlp: hidden width of each block.
        frames: "clip" encodes tubelets of consecutive frames, ``[b t] -> [b t/tubelet n d]``;
            "each" makes every frame a tubelet of its own by repeating it, and looks at one at a
            time, ``[b t] -> [b t n d]``, as V-JEPA 2-AC does.
        rope: which channels share an angle; "tiled" in the 2.0 weights, "interleaved" in 2.1.
        rope_grid: rows and columns are rescaled to a grid with this many patches along each side,
            corner on corner: 16 in 2.1. None counts patches, as 2.0 does.
        angles: "query" rounds angles as the official code does, in the dtype of the queries;
            "float32" does not, which matters in bfloat16 only.
        checkpoint_activations: compute activations again in the backward pass, to save memory.
    """

    on_meta: ClassVar[bool] = True

    image_size: int = 256
    num_frames: int = 16
    tubelet: int = 2
    patch: int = 16
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp: int = 4096
    frames: Literal["clip", "each"] = "clip"
    rope: Style = "tiled"
    rope_grid: int | None = None
    angles: Literal["query", "float32"] = "query"
    checkpoint_activations: bool = False

    def build(self) -> "VJepa2":
        """Construct the encoder with fresh weights."""
        return VJepa2(self)


def vit_large(image_size: int = 256, num_frames: int = 64) -> VJepa2Config:
    """Describe V-JEPA 2 L: 303,885,312 parameters."""
    return VJepa2Config(image_size=image_size, num_frames=num_frames)


def vit_huge(image_size: int = 256, num_frames: int = 64) -> VJepa2Config:
    """Describe V-JEPA 2 H: 631,648,000 parameters, heads of 80 channels."""
    return VJepa2Config(
        image_size=image_size, num_frames=num_frames, dim=1280, depth=32, heads=16, mlp=5120
    )


def vit_giant(image_size: int = 256, num_frames: int = 64) -> VJepa2Config:
    """Describe V-JEPA 2 g, that of V-JEPA 2-AC too: 1,012,173,952 parameters, 22 heads."""
    return VJepa2Config(
        image_size=image_size, num_frames=num_frames, dim=1408, depth=40, heads=22, mlp=6144
    )


class PatchEmbed(nn.Module):
    """Map each tubelet of pixels to a token."""

    def __init__(self, config: VJepa2Config) -> None:
        super().__init__()
        size = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.dim, kernel_size=size, stride=size)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b l d"]:
        """Return tokens in the order (time, row, column)."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class VJepa2(Encoder):
    """Encode clips as one token per tubelet, or single frames."""

    def __init__(self, config: VJepa2Config) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.embed_dim = config.dim
        self.preprocessing = Preprocessing(
            num_frames=config.num_frames, image_size=config.image_size
        )
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw normal weights of deviation 0.02, smaller where deep blocks add to the residual."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv3d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for depth, block in enumerate(self.blocks, start=1):
            for name in ("attn.proj.weight", "mlp.fc2.weight"):
                block.get_parameter(name).div_((2 * depth) ** 0.5)

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u n d"]:
        """Encode clips of any whole number of tubelets; ``u`` is ``t`` where frames stand alone.

        Raises:
            ConfigError: the clip is not a whole number of tubelets.
        """
        return self.encode(normalise(video))

    def encode(self, pixels: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u n d"]:
        """Encode clips whose pixels are normalised already."""
        return self._through_blocks(pixels, (self.config.depth - 1,))[0]

    def intermediate(
        self, video: UInt8[Tensor, "b t 3 h w"], layers: tuple[int, ...]
    ) -> list[Float[Tensor, "b u n d"]]:
        """Return the normed tokens after each of these blocks, counted from 0, in this order.

        Raises:
            ConfigError: there is no such block, or the clip is not a whole number of tubelets.
        """
        depth = self.config.depth
        wrong = [layer for layer in layers if not 0 <= layer < depth]
        if wrong or not layers:
            raise ConfigError(f"there are no layers {wrong}; name some of 0 to {depth - 1}")
        return self._through_blocks(normalise(video), layers)

    def fingerprint(self) -> list[float]:
        """Return some features of a small fixed image: the same weights, the same numbers.

        Heads, rotary style and every weight matter; precision hardly does. They are normalised, so
        the numbers of two unrelated encoders are about 1.4 apart (root mean square).
        """
        config, side = self.config, PROBE_GRID * self.config.patch
        device = self.norm.weight.device
        y, x, colour = torch.meshgrid(
            *(torch.arange(size, device=device) for size in (side, side, 3)), indexing="ij"
        )
        image = ((5 * x + 3 * y + x * y // 7 + 85 * colour) % 256).to(torch.uint8)
        count = 1 if config.frames == "each" else config.tubelet
        video = repeat(image, "h w c -> 1 t c h w", t=count)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            features = self(video).float()
        values = F.layer_norm(features, (config.dim,)).flatten()
        picked = torch.arange(PROBES, device=device) * (len(values) - 1) // (PROBES - 1)
        return values[picked].tolist()

    def _through_blocks(
        self, pixels: Float[Tensor, "b t 3 h w"], layers: tuple[int, ...]
    ) -> list[Float[Tensor, "b u n d"]]:
        steps, height, width = self._grid(pixels)
        shape = (len(pixels), -1, height * width, self.config.dim)
        if self.config.frames == "each":
            pixels = repeat(pixels, "b t c h w -> (b t) c dt h w", dt=self.config.tubelet)
        else:
            pixels = rearrange(pixels, "b t c h w -> b c t h w")
        x = self.patch_embed(pixels.to(self.norm.weight.dtype))
        turn = self._table((steps, height, width), x)
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks[: max(layers) + 1]):
            x = self._run(block, x, turn)
            if i in layers:
                kept[i] = self.norm(x).view(shape)
        return [kept[layer] for layer in layers]

    def _run(self, block: nn.Module, x: Tensor, turn: Table) -> Tensor:
        if self.config.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(lambda given: block(given, turn)[0], x, use_reentrant=False)
        return block(x, turn)[0]

    def _grid(self, pixels: Float[Tensor, "b t 3 h w"]) -> tuple[int, int, int]:
        """Return the steps, rows and columns of tokens that attend to each other."""
        config, (frames, _, height, width) = self.config, pixels.shape[1:]
        tubelet = 1 if config.frames == "each" else config.tubelet
        counts = (frames, tubelet), (height, config.patch), (width, config.patch)
        if any(size % unit or not size for size, unit in counts):
            hint = ", or use frames='each' for single ones" if frames % tubelet else ""
            raise ConfigError(
                f"a clip of {frames} frames of {height} x {width} pixels is not a whole number of "
                f"tubelets of {tubelet} frames by {config.patch} x {config.patch} pixels; cut or "
                f"resize it{hint}"
            )
        steps = 1 if config.frames == "each" else frames // tubelet
        return steps, height // config.patch, width // config.patch

    def _table(self, grid: tuple[int, int, int], like: Tensor) -> Table:
        config = self.config
        sides = [torch.arange(size, device=like.device) for size in grid]
        if config.rope_grid is not None:
            for axis in (1, 2):
                sides[axis] = sides[axis] * ((config.rope_grid - 1) / max(1, grid[axis] - 1))
            sides[0] = sides[0].to(sides[1].dtype)
        positions = [side.flatten() for side in torch.meshgrid(*sides, indexing="ij")]
        dtype = torch.float32 if config.angles == "float32" else working_dtype(like)
        return table(positions, config.dim // config.heads, dtype, config.rope)


def normalise(video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t 3 h w"]:
    """Scale pixels by ImageNet's mean and deviation, as every published encoder expects."""
    mean = torch.tensor(IMAGENET_MEAN, device=video.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=video.device).view(3, 1, 1)
    return (video.float() / 255 - mean) / std


def _check(config: VJepa2Config) -> None:
    """Raise ConfigError where sizes contradict each other."""
    if config.dim % config.heads:
        raise ConfigError(f"dim {config.dim} is not a multiple of heads {config.heads}")
    axis_width(config.dim // config.heads)
    tubelet = 1 if config.frames == "each" else config.tubelet
    if config.image_size % config.patch or config.num_frames % tubelet:
        raise ConfigError(f"a clip must be a whole number of tubelets: {config}")

"""R3M: a ResNet that learned from people's videos and their captions (Nair et al., 2022).

The network is the ResNet of He et al. (2015) without its classifier; names of weights are those of
torchvision, in whose layout R3M was published. Tokens are the last feature map; their mean is what
R3M gives. https://arxiv.org/abs/2203.12601, https://github.com/facebookresearch/r3m
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.checkpoint import load_weights
from saccade.config import Config
from saccade.errors import CheckpointError, ConfigError
from saccade.models.published.official import read_file, strip, tensors_of
from saccade.models.published.pixels import resize
from saccade.models.vit import IMAGENET_MEAN, IMAGENET_STD
from saccade.types import Encoder, Preprocessing

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # of each stage
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4  # of a bottleneck: the width of what it gives over that of its middle
STRIDE = 32  # pixels of a side for one token
VISION = "convnet."
LANGUAGE = ("lang_enc.", "lang_rew.")


@dataclass(frozen=True, kw_only=True)
class R3MConfig(Config["R3M"]):
    """A published network, or one of its size that has seen nothing.

    Args:
        depth: which ResNet.
        weights: the published ``model.pt``, or the hub's ``pytorch_model.bin`` of
            surajnair/r3m-50; None draws random ones.
        image_size: side of the frames in pixels, a multiple of 32; R3M saw 224.
        seed: of random weights.
    """

    depth: Literal[18, 34, 50] = 50
    weights: Path | None = None
    image_size: int = 224
    seed: int = 0

    def build(self) -> "R3M":
        """Construct the encoder, and load its weights where there are any.

        Raises:
            ConfigError: frames have no whole number of tokens.
            CheckpointError: the file is no R3M, or not of this depth.
        """
        encoder = R3M(replace(self, weights=None))
        if self.weights is not None:
            source = f"{self.weights}, taken for a ResNet-{self.depth},"
            load_weights(encoder.network, vision_weights(self.weights), source)
        return encoder


class R3M(Encoder):
    """One frame in, a token of every 32 x 32 pixels out."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: R3MConfig) -> None:
        super().__init__()
        size = config.image_size
        if size <= 0 or size % STRIDE:
            raise ConfigError(f"image_size {size} is no multiple of {STRIDE}; R3M saw 224")
        self.config = config
        self.preprocessing = Preprocessing(num_frames=1, image_size=size)
        self.edge = size * 8 // 7  # 256 for 224
        with torch.random.fork_rng(devices=[]):  # one seed, one network, and nobody's draws move
            torch.default_generator.manual_seed(config.seed)
            network = ResNet(config.depth).requires_grad_(False).eval()
        # channels last: 1.4 times as fast on a processor
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore
        self.embed_dim = self.network.width
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "R3M":
        """Stay in evaluation mode: batch statistics are those of its training."""
        return super().train(False)

    def prepare(self, video: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 s s"]:
        """Resize the shorter side to ``edge``, antialiased, then cut out the centre.

        So R3M's evaluation did it with Pillow and torchvision: the longer side is rounded down, and
        the corner to the nearest even.
        """
        height, width = video.shape[-2:]
        short, size = min(height, width), self.preprocessing.image_size
        sides = (self.edge * height // short, self.edge * width // short)
        frames = rearrange(video, "b t c h w -> (b t) c h w")
        if sides != (height, width):
            frames = resize(frames, sides, "bilinear")
        top, left = (round((side - size) / 2) for side in sides)
        frames = frames[..., top : top + size, left : left + size]
        return rearrange(frames, "(b t) c h w -> b t c h w", b=len(video)).contiguous()

    @torch.no_grad()
    def forward(self, video: UInt8[Tensor, "b 1 3 h w"]) -> Float[Tensor, "b 1 n d"]:
        """Encode frames."""
        pixels = (video[:, 0].float() / 255 - self.mean) / self.std
        return rearrange(self.network(pixels).float(), "b d h w -> b 1 (h w) d")


class ResNet(nn.Module):
    """Residual convolutions in four stages, without a classifier."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        bottleneck = depth >= 50
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        inside = 64
        for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True)):
            outside = width * (EXPANSION if bottleneck else 1)
            blocks: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(Residual(inside, width, outside, stride))
                inside = outside
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.width = inside

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """Return the last feature map."""
        hidden = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), 3, 2, 1)
        for stage in range(len(WIDTHS)):
            hidden = self.get_submodule(f"layer{stage + 1}")(hidden)
        return hidden


class Residual(nn.Module):
    """Two convolutions, or three where it gives more channels than its width, and a way around."""

    def __init__(self, inside: int, width: int, outside: int, stride: int) -> None:
        super().__init__()
        shapes = [(inside, width, 3, stride), (width, outside, 3, 1)]
        if outside != width:
            shapes = [(inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1)]
        self.count = len(shapes)
        for number, shape in enumerate(shapes, 1):
            self.add_module(f"conv{number}", _conv(*shape))
            self.add_module(f"bn{number}", nn.BatchNorm2d(shape[1]))
        self.downsample = nn.Sequential()
        if stride > 1 or inside != outside:
            around = _conv(inside, outside, 1, stride)
            self.downsample = nn.Sequential(around, nn.BatchNorm2d(outside))

    def forward(self, hidden: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Add to the input what the convolutions find in it."""
        around = self.downsample(hidden)
        for number in range(1, self.count + 1):
            hidden = self.get_submodule(f"conv{number}")(hidden)
            hidden = self.get_submodule(f"bn{number}")(hidden)
            hidden = F.relu(hidden) if number < self.count else hidden
        return F.relu(hidden + around)


def _conv(inside: int, outside: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def vision_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of the network in a published file, less those for language.

    Raises:
        CheckpointError: the file cannot be read, or holds other weights than R3M's.
    """
    path = Path(path)
    weights = tensors_of(read_file(path), ("r3m",), str(path))
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = strip(key, ("module.", "r3m."))
        if name.startswith(LANGUAGE):
            continue
        if not name.startswith(VISION):
            raise CheckpointError(
                f"{path} is no R3M: {key} is under none of {', '.join((VISION, *LANGUAGE))}"
            )
        found[name.removeprefix(VISION)] = value
    return found

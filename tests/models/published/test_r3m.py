"""R3M: the numbers of torchvision's ResNets for the same weights, and its own way of cutting.

The numbers below were computed with torchvision 0.28.0 (which does not work beside a CPU build of
torch without tricks, so it is no dependency of the tests) from the weights of ``made_up``. There,
features of our network and of torchvision's were equal to the last bit for all three depths, 11 to
24 million random weights each, on 224 x 224 pixels.
"""

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from saccade.errors import CheckpointError, ConfigError
from saccade.models.published.r3m import R3MConfig, ResNet
from saccade.types import Encoder
from tests.contracts import check_encoder

COUNTS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032}
# a digest of the names and shapes in torchvision's state dict, without fc
NAMES = {18: "504739f3083bec5e", 34: "44a0fd3c2ef0c9ed", 50: "c1f7fd3808aa49e7"}
# of ``picture``: mean and deviation, first and last of the pooled features; then of the last
# channel of the feature map, what is in its upper right and its lower left corner
FEATURES = {
    18: (0.12122, 0.15893, 0.12365, 0.19084, 0.16187, 0.26837),
    34: (0.18374, 0.2231, 0.54822, 0.57688, 0.5889, 0.60579),
    50: (0.48943, 0.53251, 0.53695, 0.46901, 0.46682, 0.30525),
}


def made_up(name: str, shape: torch.Size) -> Tensor:
    """Weights that every machine computes alike: whole numbers, scrambled, brought into range."""
    if not shape:
        return torch.tensor(7)  # num_batches_tracked
    numbers = torch.arange(math.prod(shape)) * 2_654_435_761 + crc32(name.encode())
    uniform = ((numbers ^ (numbers >> 13)) & 65_535).float() / 65_536
    if len(shape) == 4:  # a convolution keeps the size of what it is given
        low, high = -1.0, 1.0
        uniform = (uniform * (high - low) + low) * math.sqrt(6 / math.prod(shape[1:]))
    elif name.endswith("running_var"):
        uniform = 0.5 + uniform
    elif name.endswith("weight"):
        uniform = 0.3 + 0.4 * uniform
    else:  # bias and running_mean
        uniform = 0.2 * uniform - 0.1
    return uniform.reshape(shape).float()


@lru_cache(maxsize=1)
def weights_of(depth: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = ResNet(depth).state_dict()
    return {name: made_up(name, value.shape) for name, value in network.items()}


def picture() -> Tensor:
    """One frame of texture and colour."""
    y, x, colour = torch.meshgrid(*(torch.arange(n) for n in (224, 224, 3)), indexing="ij")
    pixels = (5 * x + 3 * y + x * y // 7 + 60 * colour) % 256
    return pixels.to(torch.uint8).permute(2, 0, 1)[None, None].contiguous()


def write(file: Path, weights: dict[str, Tensor], prefix: str = "module.") -> Path:
    """Lay weights out as R3M's training does, with its language part."""
    state = {f"{prefix}convnet.{name}": value for name, value in weights.items()}
    state |= {f"{prefix}lang_enc.model.embeddings.word_embeddings.weight": torch.ones(3, 2)}
    state |= {f"{prefix}lang_rew.pred.0.weight": torch.ones(2, 2)}
    torch.save({"r3m": state, "global_step": 1_000_000}, file)
    return file


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_numbers_of_torchvision(depth: Any, tmp_path: Path) -> None:
    weights = weights_of(depth)
    layout = "\n".join(f"{name} {tuple(value.shape)}" for name, value in sorted(weights.items()))
    assert hashlib.sha256(layout.encode()).hexdigest()[:16] == NAMES[depth]
    encoder = R3MConfig(depth=depth, weights=write(tmp_path / "model.pt", weights)).build()
    assert sum(p.numel() for p in encoder.parameters()) == COUNTS[depth]
    tokens = encoder(picture())
    assert tokens.shape == (1, 1, 49, 2048 if depth == 50 else 512)
    pooled = encoder.pool(tokens)[0]
    found = (pooled.mean(), pooled.std(), pooled[0], pooled[-1], tokens[0, 0, 6, -1])
    found = torch.stack((*found, tokens[0, 0, 42, -1]))  # row 6 of 7
    torch.testing.assert_close(found, torch.tensor(FEATURES[depth]), rtol=1e-4, atol=2e-5)


def test_contract(tmp_path: Path) -> None:
    encoder = R3MConfig(depth=18, image_size=64).build()
    encoder.network.load_state_dict(weights_of(18))  # not what its seed draws
    video = torch.randint(256, (3, 1, 3, 64, 64), dtype=torch.uint8)
    check_encoder(encoder, video)
    assert encoder(video).shape == (3, 1, 4, 512)
    assert (encoder.pooling, encoder.edge) == ("mean", 73)
    encoder.save_pretrained(tmp_path / "ours", encoder.config)
    again = Encoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(video), encoder(video))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = encoder(video)
    assert rough.dtype == torch.float32
    assert (rough - encoder(video)).abs().mean() < 0.03 * encoder(video).abs().mean()


def test_nothing_of_it_is_trained() -> None:
    encoder = R3MConfig(depth=18, image_size=32).build().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(torch.randint(256, (4, 1, 3, 32, 32), dtype=torch.uint8))
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_seed_is_a_network() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (R3MConfig(depth=18, seed=seed).build().network for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected), "building it drew from the global generator"
    weight = "layer4.1.conv2.weight"
    assert torch.equal(one.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    spread = one.state_dict()[weight].std()
    torch.testing.assert_close(spread, torch.tensor((2 / (9 * 512)) ** 0.5), rtol=0.01, atol=0)


def test_a_token_is_where_its_pixels_are() -> None:
    """Without what mixes neighbours, pixels of row 3, column 5 reach that token alone."""
    encoder = R3MConfig(depth=18).build()
    for name, value in encoder.network.named_parameters():
        if "conv" in name and value.shape[-1] > 1:
            centre = value.shape[-1] // 2
            kept = value.data[..., centre, centre].clone()
            value.data.zero_()[..., centre, centre] = kept
    black = torch.zeros(1, 1, 3, 224, 224, dtype=torch.uint8)
    spot = black.clone()
    spot[..., 3 * 32, 5 * 32] = 255
    different = (encoder(black) != encoder(spot)).any(-1)
    assert different[0, 0].nonzero().flatten().tolist() == [3 * 7 + 5]


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("bare", [False, True], ids=["training", "hub"])
def test_files_of_training_and_of_the_hub(prefix: str, bare: bool, tmp_path: Path) -> None:
    weights, file = weights_of(18), tmp_path / "model.bin"
    write(file, weights, prefix)
    if bare:
        torch.save({f"{prefix}convnet.{k}": v for k, v in weights.items()}, file)
    found = R3MConfig(depth=18, weights=file).build()
    assert found.config.weights is None, "a saved model would ask for the file again"
    state = found.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_every_weight_is_accounted_for(tmp_path: Path) -> None:
    weights = {k: torch.zeros(()).expand(v.shape) for k, v in weights_of(18).items()}  # no room
    file = tmp_path / "model.pt"
    lost = {
        name: value for name, value in weights.items() if name != "layer2.0.downsample.0.weight"
    }

    def refused(change: dict[str, Tensor], told: str, depth: Any = 18) -> None:
        with pytest.raises(CheckpointError, match=told):
            R3MConfig(depth=depth, weights=write(file, change)).build()

    refused(lost, r"ResNet-18, does not fit ResNet: 1 missing: layer2.0.downsample.0.weight")
    refused(weights | {"fc.weight": torch.ones(2)}, "1 left over: fc.weight")
    refused(weights | {"bn1.bias": torch.ones(2)}, r"bn1.bias \(2,\) should be \(64,\)")
    refused(weights, "taken for a ResNet-34, does not fit ResNet: 96 missing", depth=34)
    torch.save({"r3m": {"module.visual.conv1.weight": torch.ones(2)}}, file)
    with pytest.raises(CheckpointError, match=r"no R3M: module\.visual.conv1.weight is under none"):
        R3MConfig(depth=18, weights=file).build()
    with pytest.raises(CheckpointError, match="does not exist"):
        R3MConfig(depth=18, weights=tmp_path / "none.pt").build()
    with pytest.raises(ConfigError, match="image_size 200 is no multiple of 32"):
        R3MConfig(image_size=200).build()


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        ((256, 256), (256, 256), (16, 16)),
        ((240, 320), (256, 341), (16, 58)),  # 58.5: to the nearest even, as in torchvision
        ((343, 256), (343, 256), (60, 16)),  # 59.5
        ((128, 128), (256, 256), (16, 16)),
        ((719, 481), (382, 256), (79, 16)),  # 382.67, rounded down
    ],
)
def test_cut_as_by_pillow(
    size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    """At most one grey level off, in one value of a hundred; features within 0.02.

    Against torchvision's Resize(256) and CenterCrop(224) of Pillow's pictures of 8 sizes, outside
    of the repository: none or one level in at most 0.9 % of the values, features within 0.015.
    """
    encoder = R3MConfig(depth=18).build()
    assert encoder.edge == 256
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 7, size[1] // 7)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    noisy = (255 * smooth + 20 * torch.randn(smooth.shape)).clamp(0, 255).to(torch.uint8)
    whole = Image.fromarray(noisy[0].permute(1, 2, 0).numpy())
    small = np.array(whole.resize((resized[1], resized[0]), Image.Resampling.BILINEAR))
    top, left = corner
    expected = torch.from_numpy(small[top : top + 224, left : left + 224]).permute(2, 0, 1)
    found = encoder.prepare(torch.stack([noisy, noisy.flip(-1)], 1))
    assert found.shape == (1, 2, 3, 224, 224)
    difference = (found[0, 0].int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    features = encoder(found[:, :1]), encoder(expected[None, None].contiguous())
    assert (features[0] - features[1]).abs().max() < 0.02


def test_prepare_needs_no_second_time() -> None:
    """Frames of 256 are only cropped; moments and clips of a batch stay apart."""
    encoder = R3MConfig(depth=18).build()
    video = torch.randint(256, (2, 3, 3, 256, 256), dtype=torch.uint8)
    assert torch.equal(encoder.prepare(video), video[..., 16:240, 16:240])

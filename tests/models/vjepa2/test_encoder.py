"""The encoder computes what the official one does, at its sizes and at any other."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.checkpoint import CONFIG
from saccade.errors import CheckpointError, ConfigError
from saccade.models.vjepa2.encoder import (
    VJepa2,
    VJepa2Config,
    normalise,
    vit_giant,
    vit_huge,
    vit_large,
)
from saccade.types import Encoder
from tests.children import Child, execute
from tests.contracts import check_encoder
from tests.fixtures.vjepa2.encoder import CASES, SPARSE, pixels, stored, weights

OFFICIAL = stored()
TINY = VJepa2Config(image_size=32, num_frames=4, patch=8, dim=28, depth=2, heads=2, mlp=56)


def filled(config: VJepa2Config) -> VJepa2:
    encoder = config.build()
    encoder.load_state_dict(weights(encoder))
    return encoder.eval()


def close(found: Tensor, expected: np.ndarray | Tensor, tolerance: float = 1e-5) -> None:
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(found.detach().float(), expected, rtol=0, atol=tolerance)


@pytest.fixture
def video() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (2, 4, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize("case", CASES)
def test_official_clip(case: str) -> None:
    """Heads of 14 to 88 channels, other lengths and sizes than trained on, and not square."""
    config, shape = CASES[case]
    tokens = filled(config).encode(pixels(shape)).flatten(1, 2)
    close(tokens[:, :: SPARSE if case == "wide_grid" else 1], OFFICIAL[f"{case}/clip"])


@pytest.mark.parametrize("case", [case for case in CASES if case != "wide_grid"])
def test_official_frame(case: str) -> None:
    """Each frame, repeated to one tubelet, by itself."""
    config, shape = CASES[case]
    tokens = filled(replace(config, frames="each")).encode(pixels(shape))
    assert tokens.shape[:2] == (2, shape[0])
    close(tokens[:, 1], OFFICIAL[f"{case}/frame"])


def test_official_layers() -> None:
    config, shape = CASES["head32"]
    encoder = filled(config)
    video = torch.zeros(1, *shape[:1], 3, *shape[1:], dtype=torch.uint8)
    chosen = encoder.intermediate(video, (2, 0))
    assert torch.equal(chosen[0], encoder(video))
    close(
        encoder._through_blocks(pixels(shape), (1,))[0].flatten(1, 2), OFFICIAL["head32/layers"][1]
    )
    assert torch.equal(chosen[1], encoder.intermediate(video, (0, 1))[0])


@pytest.mark.parametrize("case", CASES)
def test_official_autocast(case: str) -> None:
    """In bfloat16 nearer to the official bfloat16 than that is to float32."""
    config, shape = CASES[case]
    encoder = filled(config)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder.encode(pixels(shape)).detach().float().flatten(1, 2)
    tokens = tokens[:, :: SPARSE if case == "wide_grid" else 1]
    exact, theirs = (torch.from_numpy(OFFICIAL[f"{case}/{kind}"]) for kind in ("clip", "bf16"))
    rounding = (theirs - exact).abs().mean()
    assert (tokens - theirs).abs().mean() < rounding / 2
    assert 0 < (tokens - exact).abs().mean() < 1.5 * rounding


def test_official_files_that_are_shared(shared_data: Path) -> None:
    official = np.load(shared_data / "vjepa2_ac" / "tiny_official_vjepa2ac.npz")
    given = {k[4:]: torch.from_numpy(official[k]) for k in official.files if k.startswith("enc/")}
    config = VJepa2Config(image_size=64, num_frames=4, dim=128, depth=2, heads=2, mlp=512)
    clip = torch.from_numpy(official["clip"]).transpose(1, 2)
    encoder, each = config.build(), replace(config, frames="each").build()
    encoder.load_state_dict(given)
    each.load_state_dict(given)
    close(encoder.encode(clip).flatten(1, 2), official["enc_out_clip"])
    close(each.encode(clip)[0], official["enc_out_framewise"])


def test_all_of_it_in_bfloat16() -> None:
    config, shape = CASES["head64"]
    tokens = filled(config).to(torch.bfloat16).encode(pixels(shape))
    assert tokens.dtype == torch.bfloat16
    exact = torch.from_numpy(OFFICIAL["head64/clip"])
    assert (tokens.detach().float().flatten(1, 2) - exact).abs().max() < 0.1


def test_angles_in_float32_matter_in_bfloat16_only() -> None:
    config, shape = CASES["head64"]
    encoder, exact = filled(config), filled(replace(config, angles="float32"))
    x = pixels(shape)
    assert torch.equal(encoder.encode(x), exact.encode(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(encoder.encode(x), exact.encode(x))


@pytest.mark.parametrize(
    ("size", "parameters", "tensors"),
    [
        (vit_large, 303_885_312, 292),
        (vit_huge, 631_648_000, 388),
        (vit_giant, 1_012_173_952, 484),
    ],
)
@pytest.mark.parametrize("image_size", [256, 384])
def test_published_sizes(
    size: Callable[..., VJepa2Config], parameters: int, tensors: int, image_size: int
) -> None:
    with torch.device("meta"):
        encoder = size(image_size).build()
        tokens = encoder(torch.empty(1, 16, 3, image_size, image_size, dtype=torch.uint8))
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert len(encoder.state_dict()) == tensors
    assert tokens.shape == (1, 8, (image_size // 16) ** 2, encoder.embed_dim)


def test_contract(video: Tensor) -> None:
    torch.manual_seed(1)
    for frames, steps in (("clip", 2), ("each", 4)):
        encoder = filled(replace(TINY, frames=frames))
        check_encoder(encoder, video)
        assert encoder(video).shape == (2, steps, 16, 28)


def test_frames_that_stand_alone_do_not_see_each_other(video: Tensor) -> None:
    encoder = filled(replace(TINY, frames="each"))
    changed = video.clone()
    changed[:, 1] = 0
    different = (encoder(video) != encoder(changed)).flatten(2).any(2)
    assert different.tolist() == [[False, True, False, False]] * 2
    clips = filled(TINY)
    assert bool((clips(video) != clips(changed)).flatten(2).any(2).all())


def test_pixels_are_normalised_by_imagenet() -> None:
    video = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    expected = [
        (124 / 255 - 0.485) / 0.229,
        (116 / 255 - 0.456) / 0.224,
        (104 / 255 - 0.406) / 0.225,
    ]
    assert normalise(video).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_version_2_1_measures_rows_and_columns_on_a_grid_of_its_own() -> None:
    """Corner on corner: 3 x 5 patches lie at 0, 7.5, 15 and at 0, 3.75, ..., 15."""
    encoder = replace(TINY, rope="interleaved", rope_grid=16).build()
    turn = encoder._table((2, 3, 5), torch.zeros(1))
    columns = turn.cos[5:10, 8].acos()  # frame 0, row 1; the fastest angle of the column
    assert turn.cos[5, 4] == pytest.approx(np.cos(7.5), abs=1e-6)
    assert columns[1].item() == pytest.approx(2 * np.pi - 3.75, abs=1e-5)
    assert turn.cos[29, 8] == pytest.approx(np.cos(15.0), abs=1e-6)
    assert turn.cos[29, 0] == pytest.approx(np.cos(1.0), abs=1e-6)
    one = encoder._table((1, 1, 1), torch.zeros(1))  # a single patch lies in the corner
    assert torch.equal(one.cos, torch.ones(1, 14))
    assert encoder(torch.zeros(1, 2, 3, 16, 24, dtype=torch.uint8)).isfinite().all()


def test_initial_weights() -> None:
    torch.manual_seed(0)
    encoder = replace(TINY, dim=120, depth=4, mlp=480).build()
    std = {name: float(p.detach().std()) for name, p in encoder.named_parameters() if p.ndim > 1}
    assert std["patch_embed.proj.weight"] == pytest.approx(0.02, rel=0.05)
    assert std["blocks.3.attn.qkv.weight"] == pytest.approx(0.02, rel=0.05)
    for name in ("attn.proj", "mlp.fc2"):
        assert std[f"blocks.0.{name}.weight"] == pytest.approx(0.02 / 2**0.5, rel=0.05)
        assert std[f"blocks.3.{name}.weight"] == pytest.approx(0.02 / 8**0.5, rel=0.05)
    biases = [p for name, p in encoder.named_parameters() if name.endswith("bias")]
    assert not any(bool(bias.any()) for bias in biases)


def test_checkpointed_activations_change_no_gradient(video: Tensor) -> None:
    gradients = []
    for option in (False, True):
        encoder = filled(replace(TINY, checkpoint_activations=option))
        encoder(video).square().sum().backward()
        gradients.append(encoder.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


COMPILED = """
import torch
from saccade.models.vjepa2.encoder import VJepa2Config
config = VJepa2Config(image_size=16, num_frames=2, patch=8, dim=14, depth=1, heads=1, mlp=8)
encoder = config.build()
video = torch.randint(256, (1, 2, 3, 16, 16), dtype=torch.uint8)
compiled = torch.compile(encoder, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(video), encoder(video))
"""


def test_compiled_without_a_break(tmp_path: Path) -> None:
    """In a process of its own: the compiler cannot see through checks of types at run time."""
    done = Child(tmp_path, execute, COMPILED).wait()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 33, 32), (4, 32, 4), (0, 32, 32)])
def test_a_clip_must_be_whole_tubelets(shape: tuple[int, int, int]) -> None:
    frames, height, width = shape
    video = torch.zeros(1, frames, 3, height, width, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=f"{frames} frames of {height} x {width} pixels"):
        filled(TINY)(video)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"heads": 3}, "28 is not a multiple of heads 3"),
        ({"heads": 4}, "head of 7 channels"),
        ({"image_size": 30}, "whole number of tubelets"),
        ({"num_frames": 3}, "whole number of tubelets"),
    ],
)
def test_sizes_that_contradict_each_other(change: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(TINY, **change).build()
    replace(TINY, frames="each", num_frames=3).build()


@pytest.mark.parametrize("layers", [(), (2,), (-1, 0)])
def test_layers_that_are_not_there(video: Tensor, layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="0 to 1"):
        filled(TINY).intermediate(video, layers)


def test_a_folder_is_opened_in_the_dtype_it_was_saved_in(tmp_path: Path, video: Tensor) -> None:
    encoder = filled(TINY).to(torch.bfloat16)
    encoder.save_pretrained(tmp_path, TINY)
    loaded = Encoder.from_pretrained(tmp_path)
    assert isinstance(loaded, VJepa2)
    assert asdict(loaded.config) == asdict(TINY)
    assert loaded.norm.weight.dtype == torch.bfloat16
    assert torch.equal(loaded(video), encoder(video))


@pytest.mark.parametrize(
    ("old", "new"), [('"heads": 2', '"heads": 1'), ('"tiled"', '"interleaved"')]
)
def test_a_folder_that_computes_something_else_is_refused(
    tmp_path: Path, old: str, new: str
) -> None:
    """Neither heads nor rotary style leave a trace in names and shapes."""
    filled(TINY).save_pretrained(tmp_path, TINY)
    path = tmp_path / CONFIG
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match="other features of a fixed image"):
        Encoder.from_pretrained(tmp_path)


def test_the_fingerprint_is_that_of_the_weights() -> None:
    encoder, each = filled(TINY), filled(replace(TINY, frames="each"))
    rng_state = torch.get_rng_state()
    numbers = encoder.fingerprint()
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert each.fingerprint() == pytest.approx(numbers, abs=1e-4)  # one tubelet in either way
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder.fingerprint() == numbers
    torch.manual_seed(0)
    assert not np.allclose(TINY.build().fingerprint(), numbers, atol=0.5)

"""Encoders that can be asked for by name, as data, and where their weights come from.

    named("dinov2-base")                          the hub's folder: out of its cache, or downloaded
    named("dinov2-base", weights=Path("file"))    a folder of the hub, or its authors' own file
    named("dinov2-base", random=True)             the same architecture, which has seen nothing

A folder says itself what pixels it expects; the contract written here is for random weights and
for files, which say nothing. VideoMAE and V-JEPA 2 look at clips, all others at single frames.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saccade.checkpoint import load_weights
from saccade.config import Config
from saccade.errors import CheckpointError, ConfigError
from saccade.models.hub_folder import download, weight_files
from saccade.models.published.official import LAYOUTS, hub_state
from saccade.models.published.r3m import R3MConfig
from saccade.models.published.vision import (
    KINDS,
    KeptVisionConfig,
    PublishedVision,
    PublishedVisionConfig,
    build_network,
    read_settings,
    read_shape,
)
from saccade.types import Encoder

R3M = "r3m"
CLIP_FRAMES = 16  # of V-JEPA 2, which takes any even number and was trained on 64
SEED = 0  # of random weights
NEAR = 3  # names to suggest for one that is not known
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
REGISTERS = "num_register_tokens"

BILINEAR, BICUBIC = 2, 3  # Pillow's numbers, which the hub uses
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


class Entry(NamedTuple):
    """One encoder.

    ``pixels`` is in the words of ``preprocessor_config.json``. ``parameters`` are those of the
    network that gives the tokens; what stands beside it (text, decoder, classifier) is not loaded.
    """

    repository: str
    kind: str  # one of ``KINDS``, or R3M
    settings: Mapping[str, Any]
    pixels: Mapping[str, Any]
    parameters: int
    licence: str
    official: bool = False  # the hub has the authors' file, not a folder in transformers' layout


def vit(width: int, depth: int, heads: int, patch: int, size: int = 224, **more: Any) -> Any:
    """Describe a vision transformer in transformers' words."""
    sizes = dict(zip(SIZES, (width, depth, heads, patch), strict=True))
    return {**sizes, "intermediate_size": 4 * width, "image_size": size, **more}


def stretched(size: int, filter: int, colours: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a resize to a square, whatever the picture's shape."""
    return {"size": {"height": size, "width": size}, "resample": filter, **colours}


def cropped(edge: int, size: int, filter: int, colours: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a resize of the shortest edge, and the central square of that."""
    crop = {"do_center_crop": True, "crop_size": {"height": size, "width": size}}
    return {"size": {"shortest_edge": edge}, **crop, "resample": filter, **colours}


SMALL, BASE, LARGE, HUGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1280, 32, 16)
TO_256 = cropped(256, 224, BICUBIC, IMAGENET)
CLIP = cropped(224, 224, BICUBIC, OPENAI)
VIDEO = cropped(292, 256, BILINEAR, IMAGENET)


def _dinov2(name: str, sizes: tuple[int, int, int], parameters: int, **more: Any) -> Entry:
    kind = "dinov2_with_registers" if REGISTERS in more else "dinov2"
    settings = {k: v for k, v in vit(*sizes, 14, 518).items() if k != "intermediate_size"}
    return Entry(f"facebook/{name}", kind, {**settings, **more}, TO_256, parameters, "apache-2.0")


def _dinov3(size: str, sizes: tuple[int, int, int], parameters: int) -> Entry:
    pixels = stretched(224, BILINEAR, IMAGENET)
    repository = f"facebook/dinov3-{size}-pretrain-lvd1689m"
    settings = vit(*sizes, 16, num_register_tokens=4)
    return Entry(repository, "dinov3_vit", settings, pixels, parameters, "dinov3-license")


def _clip(name: str, sizes: tuple[int, int, int], patch: int, parameters: int) -> Entry:
    settings = vit(*sizes, patch)
    return Entry(f"openai/{name}", "clip_vision_model", settings, CLIP, parameters, "mit")


def _siglip(name: str, settings: Mapping[str, Any], filter: int, parameters: int) -> Entry:
    pixels = stretched(224, filter, HALF)
    return Entry(
        f"google/{name}", "siglip_vision_model", settings, pixels, parameters, "apache-2.0"
    )


def _mae(name: str, sizes: tuple[int, int, int], parameters: int) -> Entry:
    pixels = stretched(224, BICUBIC, IMAGENET)
    return Entry(f"facebook/{name}", "vit_mae", vit(*sizes, 16), pixels, parameters, "apache-2.0")


def _vc1(size: str, sizes: tuple[int, int, int], parameters: int) -> Entry:
    settings = vit(*sizes, 16, layer_norm_eps=1e-6)
    repository = f"facebook/vc1-{size}"
    return Entry(repository, "vit_mae", settings, TO_256, parameters, "cc-by-nc-4.0", official=True)


def _videomae(name: str, sizes: tuple[int, int, int], parameters: int) -> Entry:
    settings = vit(*sizes, 16, num_frames=16, tubelet_size=2, use_mean_pooling=False)
    pixels = cropped(224, 224, BILINEAR, IMAGENET)
    return Entry(f"MCG-NJU/{name}", "videomae", settings, pixels, parameters, "cc-by-nc-4.0")


def _vjepa2(size: str, sizes: tuple[int, int, int], parameters: int, hidden: int) -> Entry:
    settings: dict[str, Any] = dict(zip(SIZES, (*sizes, 16), strict=True))
    settings |= {"crop_size": 256, "frames_per_clip": CLIP_FRAMES, "tubelet_size": 2}
    settings["mlp_ratio"] = hidden / sizes[0]
    repository = f"facebook/vjepa2-{size}-fpc64-256"
    return Entry(repository, "vjepa2", settings, VIDEO, parameters, "mit")


def _r3m(depth: int, parameters: int) -> Entry:
    pixels = cropped(256, 224, BILINEAR, IMAGENET)
    settings = {"depth": depth, "image_size": 224}
    return Entry(f"surajnair/r3m-{depth}", R3M, settings, pixels, parameters, "mit", official=True)


FOUR: dict[str, Any] = {REGISTERS: 4}
GIANT: dict[str, Any] = {"use_swiglu_ffn": True}
SO400M = {**vit(1152, 27, 16, 14), "intermediate_size": 4304}
ENTRIES: dict[str, Entry] = {
    "dinov2-small": _dinov2("dinov2-small", SMALL, 22_056_576),
    "dinov2-base": _dinov2("dinov2-base", BASE, 86_580_480),
    "dinov2-large": _dinov2("dinov2-large", LARGE, 304_368_640),
    "dinov2-giant": _dinov2("dinov2-giant", (1536, 40, 24), 1_136_480_768, **GIANT),
    "dinov2-small-registers": _dinov2("dinov2-with-registers-small", SMALL, 22_058_112, **FOUR),
    "dinov2-base-registers": _dinov2("dinov2-with-registers-base", BASE, 86_583_552, **FOUR),
    "dinov2-large-registers": _dinov2("dinov2-with-registers-large", LARGE, 304_372_736, **FOUR),
    "dinov2-giant-registers": _dinov2(
        "dinov2-with-registers-giant", (1536, 40, 24), 1_136_486_912, **GIANT, **FOUR
    ),
    "dinov3-vits16": _dinov3("vits16", SMALL, 21_596_544),
    "dinov3-vitb16": _dinov3("vitb16", BASE, 85_660_416),
    "dinov3-vitl16": _dinov3("vitl16", LARGE, 303_129_600),
    "clip-vit-b32": _clip("clip-vit-base-patch32", BASE, 32, 87_456_000),
    "clip-vit-b16": _clip("clip-vit-base-patch16", BASE, 16, 85_799_424),
    "clip-vit-l14": _clip("clip-vit-large-patch14", LARGE, 14, 303_179_776),
    "siglip-base": _siglip("siglip-base-patch16-224", vit(*BASE, 16), BICUBIC, 92_884_224),
    "siglip-so400m": _siglip("siglip-so400m-patch14-224", SO400M, BICUBIC, 427_680_704),
    "siglip2-base": _siglip("siglip2-base-patch16-224", vit(*BASE, 16), BILINEAR, 92_884_224),
    "mae-base": _mae("vit-mae-base", BASE, 85_798_656),
    "mae-large": _mae("vit-mae-large", LARGE, 303_301_632),
    "ijepa-vith14": Entry(
        "facebook/ijepa_vith14_1k",
        "ijepa",
        vit(*HUGE, 14, layer_norm_eps=1e-6),
        stretched(224, BILINEAR, HALF),  # so in the hub, whatever the paper's code did
        630_762_240,
        "cc-by-nc-4.0",
    ),
    "videomae-base": _videomae("videomae-base", BASE, 86_227_200),
    "videomae-large": _videomae("videomae-large", LARGE, 303_860_736),
    "vjepa2-vitl": _vjepa2("vitl", LARGE, 303_885_312, 4096),
    "vjepa2-vith": _vjepa2("vith", HUGE, 631_648_000, 5120),
    "vjepa2-vitg": _vjepa2("vitg", (1408, 40, 22), 1_012_173_952, 6144),
    "vc1-base": _vc1("base", BASE, 85_798_656),
    "vc1-large": _vc1("large", LARGE, 303_301_632),
    "r3m-18": _r3m(18, 11_176_512),
    "r3m-34": _r3m(34, 21_284_672),
    "r3m-50": _r3m(50, 23_508_032),
}


@dataclass(frozen=True, kw_only=True)
class NamedConfig(Config[Encoder]):
    """A published encoder, or one of its architecture with random weights; see ``named``.

    Args:
        name: one of ``ENTRIES``.
        weights: a folder of the hub or its authors' file; None asks the hub.
        random: draw weights, always the same.
    """

    name: str
    weights: Path | None = None
    random: bool = False

    def build(self) -> Encoder:
        """Find and load it."""
        return named(self.name, self.weights, self.random)


def entry_of(name: str) -> Entry:
    """Return what is known of an encoder.

    Raises:
        ConfigError: nothing.
    """
    if name not in ENTRIES:
        near = difflib.get_close_matches(name.lower(), ENTRIES, n=NEAR, cutoff=0.4) or ENTRIES
        raise ConfigError(f"no encoder is called {name!r}; there are {', '.join(near)}")
    return ENTRIES[name]


def named(name: str, weights: Path | None = None, random: bool = False) -> Encoder:
    """Return a published encoder, frozen, in float32.

    Args:
        name: one of ``ENTRIES``.
        weights: a folder of the hub, or, for DINOv2, MAE, VC-1 and R3M, its authors' own file;
            None asks the hub's cache, then the hub.
        random: the architecture with weights that are drawn, always the same ones.

    Raises:
        ConfigError: the name is not known, or both weights and random ones are asked for.
        CheckpointError: weights are not to be had, are of another encoder, or do not fit.
    """
    entry = entry_of(name)
    if random:
        if weights is not None:
            raise ConfigError(f"{name} has the weights of {weights} or random ones, not both")
        return _random(entry)
    if weights is not None and not weights.exists():
        raise CheckpointError(f"{weights}, the weights of {name}, does not exist; correct the path")
    source = download(entry.repository) if weights is None else weights
    if entry.official or source.is_file():
        return _from_file(name, entry, _only_file(source, name))
    require_same(name, entry, source)
    return PublishedVisionConfig(folder=source, num_frames=CLIP_FRAMES).build()


def require_same(name: str, entry: Entry, folder: Path) -> None:
    """Compare a folder with the encoder that it is to be.

    Raises:
        CheckpointError: it is of another kind or size.
    """
    kind, said = read_settings(folder)
    told = []
    if KINDS[kind].name != KINDS[entry.kind].name:
        told = [f"model_type {kind!r}, not {entry.kind!r}"]
    else:
        _, found = read_shape(KINDS[kind], said)
        _, expected = read_shape(KINDS[kind], entry.settings)
        told = [
            f"{size} {getattr(found, size)}, not {getattr(expected, size)}"
            for size in (*SIZES, REGISTERS)
            if getattr(found, size, None) != getattr(expected, size, None)
        ]
    if told:
        raise CheckpointError(
            f"{folder} is not {name}: its config.json has {'; '.join(told)}; give the folder of "
            f"{entry.repository}"
        )


def _kept(entry: Entry) -> KeptVisionConfig:
    return KeptVisionConfig(
        kind=entry.kind,
        settings=json.dumps(dict(entry.settings)),
        pixels=json.dumps(dict(entry.pixels)),
    )


def _random(entry: Entry) -> Encoder:
    if entry.kind == R3M:
        return R3MConfig(depth=entry.settings["depth"], seed=SEED).build()
    with torch.random.fork_rng(devices=[]):  # nobody else's draws move
        torch.default_generator.manual_seed(SEED)
        return _kept(entry).build()


def _from_file(name: str, entry: Entry, file: Path) -> Encoder:
    if entry.kind == R3M:
        return R3MConfig(depth=entry.settings["depth"], weights=file).build()
    if entry.kind not in LAYOUTS:
        raise CheckpointError(
            f"{file} is a file, and {name} is read from a folder with config.json: give what `hf "
            f"download {entry.repository} --local-dir FOLDER` writes"
        )
    state = {key: value.float() for key, value in hub_state(file, entry.kind).items()}
    kind = KINDS[entry.kind]
    _, settings = read_shape(kind, entry.settings)
    with torch.device("meta"):  # drawing weights that are replaced takes longer than reading them
        network = build_network(kind, settings)
    load_weights(network, state, f"{file}, taken for {name},", assign=True)
    return PublishedVision(_kept(entry), network)


def _only_file(source: Path, name: str) -> Path:
    if source.is_file():
        return source
    files = weight_files(source)
    if len(files) != 1:
        raise CheckpointError(
            f"{source} holds {len(files)} files of weights ({', '.join(f.name for f in files)}); "
            f"give the file of {name} itself"
        )
    return files[0]

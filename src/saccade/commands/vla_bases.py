"""What ``saccade vla`` reads: models by name or folder, and demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saccade.checkpoint import CONFIG
from saccade.commands.common import data_set
from saccade.config import Config
from saccade.errors import ConfigError
from saccade.experiments.source import SourceConfig
from saccade.models.hub_folder import read_json
from saccade.vla.imitation import PretrainedVlaConfig
from saccade.vla.loading import PublishedOpenVlaConfig, SmallOpenVlaConfig
from saccade.vla.policy import VlaPolicy
from saccade.vla.published_pi0 import PublishedPi0Config, SmallPi0Config

SMALL = ("small", "small-pi0")  # bases of fresh weights
SEEN = 224  # pixels of a published tower
MODES = {"keep": "keep", "replace": "replace", "replace-one": "replace_one", "add": "add"}


@dataclass(frozen=True, kw_only=True)
class Given:
    """Options that all verbs have.

    Args:
        data_options: options of the reader of --data, like state=joint.
        camera: the camera to look through; empty takes the data set's first.
        cameras: several, in this order, in place of it (pi0).
        frames: an encoder of clips is shown the newest frame several times (repeat), or the last
            ones (history).
        stride: steps between those.
        keep_grid: leave the encoder its own number of tokens (replace).
        pictures: moments that replace-one is fitted on.
        tokenizer: folder of the tokenizer, where the base has none (Qwen/Qwen2.5-0.5B for the
            0.5B sibling, google/paligemma-3b-pt-224 for pi0).
        towers: folders of timm's DINOv2 and SigLIP, where a training left its towers as they are
            published (the 0.5B sibling); the error that asks for them names them.
        frame: side of the squares that a published base is given before it resizes them; 0 takes
            the size of those recorded, or 448 for larger ones that are no squares. Those are
            squashed for an OpenVLA and put between bars for a pi0, as in their training.
        dtype: of a published base's weights; auto leaves them as they are.
        cache: folder of decoded frames.
    """

    data_options: tuple[str, ...] = ()
    camera: str = ""
    cameras: tuple[str, ...] = ()
    frames: Literal["repeat", "history"] = "repeat"
    stride: int = 1
    keep_grid: bool = False
    pictures: int = 2000
    tokenizer: Path | None = None
    towers: tuple[Path, ...] = ()
    frame: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: str = ""


def seen_through(command: Given, data: str) -> SourceConfig:
    """Return demonstrations, nine of ten for training."""
    return SourceConfig(
        episodes=data_set(data, command.data_options),
        camera=command.camera,
        cameras=command.cameras,
        shares=(0.9, 0.1, 0.0),
        cache=command.cache,
    )


def base_named(
    base: str, source: SourceConfig, command: Given, *more: SourceConfig, statistics: str = ""
) -> Config[VlaPolicy]:
    """Find a base: fresh, of ours, or published. Fresh ones know the words of ``more`` data too.

    Raises:
        ConfigError: there is no such folder, or it has no use for timm's towers.
    """
    found = _base_named(base, source, command, more, statistics)
    if command.towers and not isinstance(found, PublishedOpenVlaConfig):
        raise ConfigError(
            f"--towers are for an OpenVLA whose training left its own as published; {base} has its "
            "own, leave them out"
        )
    return found


def _base_named(
    base: str,
    source: SourceConfig,
    command: Given,
    more: Sequence[SourceConfig],
    statistics: str,
) -> Config[VlaPolicy]:
    folder = Path(base)
    if base in SMALL:
        episodes = source.episodes.build()
        every = [episodes.tasks, *(other.episodes.build().tasks for other in more)]
        texts = tuple(sorted({text for tasks in every for text in tasks}))
        if base == "small-pi0":
            return SmallPi0Config(texts=texts)  # other numbers of things are set by the data
        return SmallOpenVlaConfig(texts=texts, action_names=episodes.action_names)
    inside = folder / "policy"
    if (inside / CONFIG).is_file():
        return PretrainedVlaConfig(folder=inside)
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder} has no {CONFIG}; give the folder of an OpenVLA (hf download "
            "openvla/openvla-7b --local-dir FOLDER) or a pi0, a policy of ours, `small` or "
            "`small-pi0`"
        )
    if '"saccade' in (folder / CONFIG).read_text():
        return PretrainedVlaConfig(folder=folder)
    return published_named(folder, command, command.frame or frame_of(source), statistics)


def frame_of(source: SourceConfig) -> int:
    """Return the side of the squares that a published base is given, in pixels.

    Squares keep their size. Frames that are none keep their longer side, up to twice what towers
    see: a frame of a film may be ten times as wide.
    """
    height, width = source.recorded()
    return height if height == width else min(max(height, width), 2 * SEEN)


def published_named(
    folder: Path, command: Given, frame: int, statistics: str = ""
) -> PublishedPi0Config | PublishedOpenVlaConfig:
    """Find a published model.

    Raises:
        ConfigError: a pi0 is asked for statistics, of which its folder has none.
    """
    settings = folder / CONFIG
    if settings.is_file() and read_json(folder, CONFIG).get("model_type") == "pi0":
        if statistics:
            raise ConfigError("--statistics are OpenVLA's; a pi0 takes those of --data")
        return PublishedPi0Config(folder=folder, tokenizer=command.tokenizer, frame=frame)
    return PublishedOpenVlaConfig(
        folder=folder,
        statistics=statistics,
        tokenizer=command.tokenizer,
        towers=command.towers,
        frame=frame,
        dtype=command.dtype,
    )

"""``saccade vla VERB``: vision-language-action models, and what they see with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from saccade.checkpoint import CONFIG
from saccade.commands.common import data_set, replace_folder, say
from saccade.config import Config
from saccade.errors import ConfigError
from saccade.experiments.source import SourceConfig
from saccade.experiments.vla import Exchange, encoder_named
from saccade.models.hub_folder import read_json
from saccade.vla.imitation import PretrainedVlaConfig
from saccade.vla.loading import PublishedOpenVlaConfig, SmallOpenVlaConfig
from saccade.vla.policy import VlaPolicy
from saccade.vla.published_pi0 import PublishedPi0Config, SmallPi0Config
from saccade.vla.swap import SwapConfig

SMALL = ("small", "small-pi0")  # bases of fresh weights
USAGE = """Vision-language-action models with other eyes: OpenVLA and pi0.

usage: saccade vla VERB ...    saccade vla VERB --help teaches, with an example

  swap       a model and an encoder -> a policy that sees with it, ready to be fine-tuned

Then: saccade train vla:finetune --policy SWAPPED --data DATA --demos 0.2 --out RUN
      saccade evaluate RUN --suite libero_spatial --out runs/tuned_spatial
Example: saccade vla swap --base small --encoder runs/first --mode add --data data/metaworld
--out runs/swapped"""

MODES = {"keep": "keep", "replace": "replace", "replace-one": "replace_one", "add": "add"}


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Put an encoder of ours into OpenVLA or pi0, in the place of its own eyes or beside them.

    replace      in place of all towers, with a new projector
    replace-one  in place of one tower, through a linear map fitted by least squares on pictures of
                 the data, so that the old projector is of use from the first step
    add          beside them, through a map that starts at zero: at first, no bit changes
    keep         nothing: bring a model over as it is

    The language model is left as it is, which its sha256 proves; nothing is ever random that was
    not asked to be new. `--encoder original --mode replace` is the control: the model's own towers
    with a new projector.

    Example: saccade vla swap --base models/openvla-7b --encoder runs/first --mode replace-one
    --data data/libero_spatial --camera agentview --out runs/swapped

    Args:
        base: folder of an OpenVLA (the hub's, or a training's with checkpoints/) or of a pi0
            (lerobot/pi0_base), a policy of ours, or `small` or `small-pi0`: two layers and fresh
            weights, to try things on a laptop.
        encoder: a run or what it exported, the folder of a DINOv2, SigLIP or CLIP, or `original`.
        data: what the policy is to know: cameras, frame size, actions; of any format.
        data_options: options of its reader, like state=joint.
        camera: the camera to look through; empty takes the data set's first.
        cameras: several, in this order, in place of it (pi0).
        out: new folder.
        mode: see above.
        slot: which tower replace-one takes the place of: of an OpenVLA, 0 is DINOv2, 1 SigLIP.
        frames: an encoder of clips is shown the newest frame several times (repeat), or the last
            ones (history).
        stride: steps between those.
        keep_grid: leave the encoder its own number of tokens (replace).
        pictures: frames that replace-one is fitted on.
        tokenizer: folder of the tokenizer, where the base has none (Qwen/Qwen2.5-0.5B for the
            0.5B sibling, google/paligemma-3b-pt-224 for pi0).
        frame: side of the frames that a published base is given before it resizes them; 0 takes
            the smaller side of those recorded.
        dtype: of a published base's weights; auto leaves them as they are.
        seed: of new weights.
        cache: folder of decoded frames.
        overwrite: delete an earlier swap in the folder first.
        dry_run: say what would be done, from settings alone.
    """

    base: str
    encoder: str = "original"
    data: str
    data_options: tuple[str, ...] = ()
    camera: str = ""
    cameras: tuple[str, ...] = ()
    out: Path
    mode: Literal["keep", "replace", "replace-one", "add"] = "keep"
    slot: int = 0
    frames: Literal["repeat", "history"] = "repeat"
    stride: int = 1
    keep_grid: bool = False
    pictures: int = 2000
    tokenizer: Path | None = None
    frame: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    cache: str = ""
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Run one verb."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] != "swap":
        raise ConfigError(f"there is no `saccade vla {args[0]}`; there is swap")
    return swap(tyro.cli(Swap, args=args[1:], prog="saccade vla swap"))


def swap(command: Swap) -> int:
    """Exchange the eyes and save the policy."""
    source = SourceConfig(
        episodes=data_set(command.data, command.data_options),
        camera=command.camera,
        cameras=command.cameras,
        shares=(0.9, 0.1, 0.0),
        cache=command.cache,
    )
    exchange = Exchange(
        base=base_named(command, source),
        swap=SwapConfig(
            mode=MODES[command.mode],  # pyright: ignore[reportArgumentType]
            encoder=encoder_named(command.encoder),
            slot=command.slot,
            frames=command.frames,
            stride=command.stride,
            keep_grid=command.keep_grid,
        ),
        source=source,
        pictures=command.pictures,
        seed=command.seed,
    )
    if command.dry_run:
        print(exchange)
        return 0
    if command.overwrite:
        replace_folder(command.out, "policy/" + CONFIG)
    if command.out.is_dir() and any(command.out.iterdir()):
        raise ConfigError(f"{command.out} has files in it; choose another --out, or --overwrite")
    policy, fit = exchange.run(say)
    place = command.out / "policy"
    about = f"{command.base}, eyes: {command.encoder}, {command.mode}"
    policy.save_pretrained(place, policy.config, f"# {type(policy).__name__}: {about}\n")
    if fit is not None:
        print(
            f"the adapter gives what the old tower gave with R2 {fit.r2:.3f}, on {fit.held_out} of "
            f"{fit.pictures} pictures that it was not fitted on (0: no better than the mean)"
        )
    new = ", ".join(policy.new_parts()) or "nothing"
    print(f"{place}: {about}; new: {new}; language model {policy.digests()['language'][:12]}")
    return 0


def base_named(command: Swap, source: SourceConfig) -> Config[VlaPolicy]:
    """Find the base: fresh, of ours, or published.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(command.base)
    if command.base in SMALL:
        episodes = source.episodes.build()
        texts = tuple(sorted(set(episodes.tasks)))
        if command.base == "small-pi0":
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
    frame = command.frame or min(source.recorded())
    if read_json(folder, CONFIG).get("model_type") == "pi0":
        return PublishedPi0Config(folder=folder, tokenizer=command.tokenizer, frame=frame)
    return PublishedOpenVlaConfig(
        folder=folder, tokenizer=command.tokenizer, frame=frame, dtype=command.dtype
    )

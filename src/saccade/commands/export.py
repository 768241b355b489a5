"""``saccade export VERB``: adapters to share, and official files as folders of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from saccade.commands.common import replace_folder
from saccade.data.passes.words import counted
from saccade.errors import ConfigError
from saccade.experiments.adapters import MARK, export_lora, read_run
from saccade.experiments.bundle import whole, zip_folder
from saccade.models.vjepa2.official import RELEASES, EncoderPart, convert_encoder
from saccade.models.vjepa2.official_ac import convert_ac

FLOORS = ("copy", "shuffled_actions")  # scores that a held-out loss is told beside
AC_FILE = "vjepa2-ac-vitg.pt"  # the one published file with a predictor that knows actions
USAGE = """Weights to hand on, and weights from elsewhere.

usage: saccade export VERB ...    saccade export VERB --help teaches, with an example

  lora       a run that trained adapters -> each stage of them alone, some megabytes, to share
  convert    an official .pt file of V-JEPA 2 or V-JEPA 2-AC -> a model folder, once

Example: saccade export lora runs/droid-lora --out shared/droid-lora --zip"""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Write the adapters of a world model's training alone, a folder for each stage.

    A stage is a folder of peft with a record beside it (saccade.json: step, clips seen, held-out
    scores, digest of the base, data, settings). There is one for each checkpoint that the run has
    kept (--train.keep), one for the best and one for the end; `baseline` computes what the base
    does, so that the same code loads it for comparison. README.md shows how to load them. The
    settings name folders of the machine that trained; look at them before you publish.

    Example: saccade export lora runs/droid-lora --out shared/droid-lora --zip

    Args:
        run: folder of a finished run with adapters.
        out: new folder.
        zip: pack it beside, as OUT.zip; the same run gives the same bytes.
        overwrite: delete an earlier export in the folder first.
    """

    run: tyro.conf.Positional[Path]
    out: Path
    zip: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write an official .pt file as a folder of config.json and safetensors, once.

    The world model is vjepa2-ac-vitg.pt (11.7 GB; the folder has 2.6 GB in bfloat16): its encoder
    and predictor, for `saccade energy`, `plan` and `train vjepa2_ac:lora`. Other files hold an
    encoder. Nothing is unpickled but tensors, and every tensor is accounted for.

    Example: saccade export convert vjepa2-ac-vitg.pt --out models/vjepa2-ac-vitg
    --step-seconds 0.25

    Example: saccade export convert vitl.pt --what encoder --part target_encoder --out models/vitl

    Args:
        file: the official file; where it is absent, the error says where to get it.
        out: new folder.
        what: a world model takes the encoder and the predictor, and only AC files hold one.
        step_seconds: time from a frame to the next, of a world model: 0.25 as the paper says.
            The published weights may have learned from steps of a second
            (https://github.com/facebookresearch/vjepa2/issues/183).
        part: target_encoder is the moving average, which V-JEPA 2-AC was built on; encoder the
            trained one. A world model takes target_encoder; the AC file's two are the same.
        precision: of the weights that are written.
        frames: of an encoder alone: clip encodes tubelets of two frames, each every frame by
            itself, as world models do.
        image_size: height and width of frames, where the name of the file does not tell.
        heads: of the encoder's attention, for widths that were never published.
        predictor_heads: of the predictor's, likewise.
    """

    file: tyro.conf.Positional[Path]
    out: Path
    what: Literal["world_model", "encoder"] = "world_model"
    step_seconds: float | None = None
    part: EncoderPart | None = None
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    frames: Literal["clip", "each"] | None = None
    image_size: int | None = None
    heads: int | None = None
    predictor_heads: int | None = None


def main(args: list[str]) -> int:
    """Run one verb."""
    verbs = {"lora": lora, "convert": convert}
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] not in verbs:
        raise ConfigError(f"there is no `saccade export {args[0]}`; there are {', '.join(verbs)}")
    return verbs[args[0]](args[1:])


def lora(args: list[str]) -> int:
    """Export adapters."""
    command = tyro.cli(Lora, args=args, prog="saccade export lora")
    run, place = read_run(command.run), command.out.resolve()
    packed = place.with_name(f"{place.name}.zip")
    if command.zip and packed.exists() and not command.overwrite:
        raise ConfigError(f"{packed} is there already; delete it, or give --overwrite")
    if command.overwrite:
        replace_folder(command.out, MARK)
    stages = export_lora(run, command.out)
    clips = run.settings["eval_samples"]
    for stage in stages:
        found = stage.held_out
        told = "not scored at this step"
        if found is not None:
            floors = [f"{n.replace('_', ' ')} {found[n]:.4g}" for n in FLOORS if n in found]
            told = f"held-out loss {found['loss']:.4g} ({', '.join(floors)})"
        print(f"{stage.name:12}  step {stage.step:,}, {stage.samples:,} clips: {told}")
    print(f"losses are means over at most {clips} held-out clips of one seed, without intervals")
    size = sum(path.stat().st_size for path in command.out.rglob("*") if path.is_file())
    print(f"{counted(len(stages), 'stage')}, {size / 1e6:.1f} MB in {command.out}; see README.md")
    if command.zip:
        zip_folder(command.out, packed)
        print(f"packed: {packed}")
    return 0


def convert(args: list[str]) -> int:
    """Convert an official file."""
    command = tyro.cli(Convert, args=args, prog="saccade export convert")
    options = options_of(command)
    with whole(command.out) as place:
        if command.what == "encoder":
            assert command.part is not None
            made = convert_encoder(command.file, place, command.part, **options)
            told = f"encoder, part {command.part}"
        else:
            made = convert_ac(command.file, place, **options)
            told = f"world model, steps of {made.step_seconds:g} s"
    count = sum(p.numel() for p in made.parameters())
    print(f"{told}: {count:,} parameters in {command.precision}, in {command.out}")
    return 0


def options_of(command: Convert) -> dict[str, Any]:
    """Return what the conversion is told.

    Raises:
        ConfigError: an option belongs to the other kind of model, or one is needed.
    """
    world = command.what == "world_model"
    if world and command.file.name in RELEASES and command.file.name != AC_FILE:
        raise ConfigError(f"{command.file.name} holds no world model; convert it by --what encoder")
    if not world and command.part is None:
        raise ConfigError(
            "an official file holds two encoders with other features; choose by --part "
            "target_encoder (the moving average, what was evaluated) or --part encoder"
        )
    only_world = {"step_seconds": command.step_seconds, "predictor_heads": command.predictor_heads}
    other = {"frames": command.frames} if world else only_world
    if given := [f"--{n.replace('_', '-')}" for n, value in other.items() if value is not None]:
        raise ConfigError(f"{given[0]} is no option for {command.what}; leave it out")
    sizes = {"image_size": command.image_size, "heads": command.heads}
    more = only_world | {"part": command.part} if world else {"frames": command.frames}
    chosen = {name: value for name, value in (sizes | more).items() if value is not None}
    return chosen | {"dtype": getattr(torch, command.precision)}

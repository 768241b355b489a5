"""``saccade vla VERB``: vision-language-action models, and what they see with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from saccade.checkpoint import CONFIG
from saccade.commands import vla_compare
from saccade.commands.common import replace_folder, say
from saccade.commands.vla_bases import MODES, Given, base_named, published_named, seen_through
from saccade.errors import ConfigError
from saccade.experiments.vla import ORIGINAL, Exchange, as_published, encoder_named
from saccade.vla.loading import PublishedOpenVlaConfig
from saccade.vla.swap import SwapConfig

USAGE = """Vision-language-action models with other eyes: OpenVLA and pi0.

usage: saccade vla VERB ...    saccade vla VERB --help teaches, with an example

  swap       a model and an encoder -> a policy that sees with it, ready to be fine-tuned
  compare    models x encoders: swap, fine-tune, let act; one table with intervals, one page

Between: saccade train vla:finetune --policy SWAPPED --data DATA --demos 0.2 --out RUN
      saccade evaluate RUN --suite libero_spatial --out runs/tuned_spatial
Example: saccade vla swap --base small --encoder runs/first --mode add --data data/metaworld
--out runs/swapped"""


@dataclass(frozen=True, kw_only=True)
class Swap(Given):
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

    Example: saccade vla swap --base models/openvla-7b-finetuned-libero-spatial --mode keep
    --statistics libero_spatial --out runs/as_published

    Args:
        base: folder of an OpenVLA (the hub's, or a training's with checkpoints/) or of a pi0
            (lerobot/pi0_base), a policy of ours, or `small` or `small-pi0`: two layers and fresh
            weights, to try things on a laptop.
        encoder: a run or what it exported, the folder of a DINOv2, SigLIP or CLIP, or `original`.
        data: what the policy is to know: cameras, frame size, actions; of any format. With
            --statistics and --mode keep it may be left out: the policy then acts in LIBERO as its
            authors let it act.
        statistics: the data set, of those that an OpenVLA names, whose range of actions it answers
            in; empty takes the range of --data.
        out: new folder.
        mode: see above.
        slot: which tower replace-one takes the place of: of an OpenVLA, 0 is DINOv2, 1 SigLIP.
        seed: of new weights.
        overwrite: delete an earlier swap in the folder first.
        dry_run: say what would be done, from settings alone.
    """

    base: str
    encoder: str = "original"
    data: str = ""
    statistics: str = ""
    out: Path
    mode: Literal["keep", "replace", "replace-one", "add"] = "keep"
    slot: int = 0
    seed: int = 0
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Run one verb."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "compare":
        return vla_compare.main(args[1:])
    if args[0] != "swap":
        raise ConfigError(f"there is no `saccade vla {args[0]}`; there are swap and compare")
    return swap(tyro.cli(Swap, args=args[1:], prog="saccade vla swap"))


def swap(command: Swap) -> int:
    """Exchange the eyes and save the policy."""
    exchange = exchanged(command) if command.data else None
    base = None if exchange is not None else untouched(command)
    if command.dry_run:
        print(exchange or base)
        return 0
    if command.overwrite:
        replace_folder(command.out, "policy/" + CONFIG)
    if command.out.is_dir() and any(command.out.iterdir()):
        raise ConfigError(f"{command.out} has files in it; choose another --out, or --overwrite")
    if exchange is not None:
        policy, fit = exchange.run(say)
    else:
        assert base is not None
        policy, fit = as_published(base), None
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


def exchanged(command: Swap) -> Exchange:
    """Return the exchange that the command asks for."""
    source = seen_through(command, command.data)
    base = base_named(command.base, source, command, statistics=command.statistics)
    if command.statistics and not isinstance(base, PublishedOpenVlaConfig):
        raise ConfigError(
            f"--statistics choose among those of a published OpenVLA; {command.base} takes the "
            "range of --data"
        )
    return Exchange(
        base=base,
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
        keep_bounds=bool(command.statistics),
    )


def untouched(command: Swap) -> PublishedOpenVlaConfig:
    """Return an OpenVLA that is to act as it was published, without data.

    Raises:
        ConfigError: data are needed for what is asked.
    """
    if command.mode != "keep" or command.encoder != ORIGINAL or not command.statistics:
        raise ConfigError(
            "give --data, which say what the policy is shown and commands; they may be left out "
            "where an OpenVLA stays as it is: --mode keep with --statistics KEY"
        )
    base = published_named(Path(command.base), command, command.frame or 256, command.statistics)
    if not isinstance(base, PublishedOpenVlaConfig):
        raise ConfigError(f"{command.base} is no published OpenVLA; give --data")
    return base

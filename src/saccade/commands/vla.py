"""``saccade vla VERB``: vision-language-action models, and what they see with."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade.checkpoint import CONFIG
from saccade.commands.common import command_line, data_set, load_recipe, replace_folder, say
from saccade.commands.evaluate import Line, numbers
from saccade.config import Config
from saccade.errors import ConfigError
from saccade.evals import protocols
from saccade.experiments.source import SourceConfig
from saccade.experiments.suites import suite_named
from saccade.experiments.training import with_budget
from saccade.experiments.vla import ORIGINAL, Exchange, VlaTraining, as_published, encoder_named
from saccade.experiments.vla_comparison import SETTINGS, Model, Rollouts, VlaComparison
from saccade.models.hub_folder import read_json
from saccade.recipes import vla as recipes
from saccade.report import vla_page
from saccade.types import Encoder
from saccade.vla.imitation import PretrainedVlaConfig
from saccade.vla.loading import PublishedOpenVlaConfig, SmallOpenVlaConfig
from saccade.vla.policy import VlaPolicy
from saccade.vla.published_pi0 import PublishedPi0Config, SmallPi0Config
from saccade.vla.swap import SwapConfig

SMALL = ("small", "small-pi0")  # bases of fresh weights
USAGE = """Vision-language-action models with other eyes: OpenVLA and pi0.

usage: saccade vla VERB ...    saccade vla VERB --help teaches, with an example

  swap       a model and an encoder -> a policy that sees with it, ready to be fine-tuned
  compare    models x encoders: swap, fine-tune, let act; one table with intervals, one page

Between: saccade train vla:finetune --policy SWAPPED --data DATA --demos 0.2 --out RUN
      saccade evaluate RUN --suite libero_spatial --out runs/tuned_spatial
Example: saccade vla swap --base small --encoder runs/first --mode add --data data/metaworld
--out runs/swapped"""

MODES = {"keep": "keep", "replace": "replace", "replace-one": "replace_one", "add": "add"}


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Exchange the eyes of models for several encoders, fine-tune all alike, and let all act.

    Beside the encoders stand the model's own eyes (original), the same with a new projector
    (re-projected, the control) and the first encoder with random weights (untrained). Fresh bases
    (small, small-pi0) are first trained whole, on --base-data. Run the same command again after
    an interruption: what is finished is kept.

    Example: saccade vla compare --base small small-pi0 --base-data data/base --data data/target
    --encoders two-stream=runs/eyes/train/two-stream/seed-0 video-mae=runs/b --demos 0.2
    --suite metaworld:reach,window-open --trials 20 --workers 2 --out runs/vla

    Args:
        base: small, small-pi0, or folders of models, as for saccade vla swap.
        encoders: NAME=RUN, or NAME=FOLDER of a DINOv2, SigLIP or CLIP.
        mode: replace, replace-one or add; several give several rows.
        frames: as for swap.
        stride: as for swap.
        keep_grid: as for swap.
        data: demonstrations to fine-tune on; of any format.
        data_options: options of its reader.
        base_data: demonstrations that fresh bases are trained on first; empty takes --data.
        camera: the camera to look through; empty takes the data set's first.
        cameras: several, in this order, in place of it (pi0).
        demos: share of the demonstrations to fine-tune on, of every task alike.
        recipe: of the fine-tuning.
        budget: samples of each fine-tuning; 0 keeps the recipe's.
        base_budget: samples of each fresh base; 0 keeps the recipe's.
        seeds: fine-tunings of each; a claim about trainings needs three.
        suite: libero_spatial, _object, _goal, _10, _90, or metaworld:TASK,TASK; empty leaves
            rollouts out.
        protocol: as for saccade evaluate.
        tasks: numbers of tasks; none means all.
        trials: rollouts of each task, in place of the protocol's.
        initial_states: those of the trials, such as 0:10; none means the first ones.
        horizon: steps of the policy, in place of the protocol's.
        assets: folder or archive of LIBERO's meshes and textures.
        pictures: frames that replace-one is fitted on.
        tokenizer: as for swap.
        frame: as for swap.
        dtype: as for swap.
        device: that policies act on: cpu, cuda, or auto.
        workers: processes of the rollouts.
        jobs: fine-tunings at once; 0 means one per core, or one where there is a GPU.
        cache: folder of decoded frames.
        out: folder of everything.
        overwrite: delete the folder first.
        dry_run: say what would be done, and how long and large, and do nothing.
    """

    base: tuple[str, ...]
    encoders: tuple[str, ...]
    mode: tuple[Literal["replace", "replace-one", "add"], ...] = ("replace",)
    frames: Literal["repeat", "history"] = "repeat"
    stride: int = 1
    keep_grid: bool = False
    data: str
    data_options: tuple[str, ...] = ()
    base_data: str = ""
    camera: str = ""
    cameras: tuple[str, ...] = ()
    demos: float = 0.2
    recipe: str = ""
    budget: int = 0
    base_budget: int = 0
    seeds: int = 1
    suite: str = ""
    protocol: str = ""
    tasks: tuple[int, ...] = ()
    trials: int | None = None
    initial_states: tuple[str, ...] = ()
    horizon: int | None = None
    assets: Path | None = None
    pictures: int = 2000
    tokenizer: Path | None = None
    frame: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "cpu"
    workers: int = 1
    jobs: int = 0
    cache: str = ""
    out: Path
    overwrite: bool = False
    dry_run: bool = False


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
        data_options: options of its reader, like state=joint.
        statistics: the data set, of those that an OpenVLA names, whose range of actions it answers
            in; empty takes the range of --data.
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
    data: str = ""
    data_options: tuple[str, ...] = ()
    statistics: str = ""
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
    if args[0] == "compare":
        return compare(tyro.cli(Compare, args=args[1:], prog="saccade vla compare"), args)
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
    base = base_named(command.base, source, command)
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
    base = published_named(Path(command.base), command, command.frame or 256)
    if not isinstance(base, PublishedOpenVlaConfig):
        raise ConfigError(f"{command.base} is no published OpenVLA; give --data")
    return base


def compare(command: Compare, args: list[str]) -> int:
    """Compare eyes, and print the table."""
    comparison = planned(command)
    comparison.check()
    if command.dry_run:
        for line in comparison.plan():
            print(line)
        return 0
    if command.overwrite:
        replace_folder(command.out, SETTINGS)
    results = comparison.run(
        command.out,
        command=command_line("vla", args),
        jobs=command.jobs,
        report=say,
        played=Line(),
    )
    show(results, command.out)
    return 0


def planned(command: Compare) -> VlaComparison:
    """Return what the command asks for.

    Raises:
        ConfigError: settings that do not go together.
    """
    data = seen_through(command, command.data)
    before = seen_through(command, command.base_data or command.data)
    fresh = all(name in SMALL for name in command.base)
    recipe = command.recipe or ("vla:finetune_tiny" if fresh else "vla:finetune")
    tuning = load_recipe(recipe)
    whole = with_budget(replace(recipes.whole_tiny(), source=before), command.base_budget, seed=0)
    if not isinstance(tuning, VlaTraining):
        raise ConfigError(f"{recipe} fine-tunes no vision-language-action model; use vla:finetune")
    models = tuple(
        Model(
            name="-".join(name.split("/")[-2:]) if name not in SMALL else name,
            policy=base_named(name, before if name in SMALL else data, command, data),
            training=whole if name in SMALL else None,
        )
        for name in command.base
    )
    return VlaComparison(
        models=models,
        encoders=dict(map(named_encoder, command.encoders)),
        modes=tuple(MODES[mode] for mode in command.mode),  # pyright: ignore[reportArgumentType]
        frames=command.frames,
        stride=command.stride,
        keep_grid=command.keep_grid,
        tuning=replace(tuning, source=replace(data, demos=command.demos)),
        samples=command.budget,
        seeds=command.seeds,
        rollouts=rollouts(command),
        pictures=command.pictures,
        device=command.device,
    )


def rollouts(command: Compare) -> Rollouts | None:
    """Return where policies act, if they are to."""
    if not command.suite:
        return None
    suite = suite_named(command.suite, command.assets)
    states = numbers(command.initial_states)
    usual = "metaworld" if suite.name.startswith("metaworld") else "lerobot"
    protocol = protocols.named(command.protocol or usual).changed(
        suite.name, trials=len(states) or command.trials, horizon=command.horizon
    )
    return Rollouts(
        suite=suite,
        protocol=protocol,
        tasks=command.tasks,
        initial_states=states,
        workers=command.workers,
    )


def seen_through(command: "Compare | Swap", data: str) -> SourceConfig:
    """Return demonstrations, nine of ten for training."""
    return SourceConfig(
        episodes=data_set(data, command.data_options),
        camera=command.camera,
        cameras=command.cameras,
        shares=(0.9, 0.1, 0.0),
        cache=command.cache,
    )


def named_encoder(text: str) -> tuple[str, Config[Encoder]]:
    """Read ``NAME=RUN``.

    Raises:
        ConfigError: the text has another form, or names the model's own eyes.
    """
    name, equals, place = text.partition("=")
    found = encoder_named(place) if equals and name and place else None
    if found is None:
        raise ConfigError(f"--encoders {text} is not of the form NAME=RUN, as two-stream=runs/a")
    return name, found


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the table, the verdict, the alarms, and where the page is."""
    columns = os.environ.get("COLUMNS")
    width = int(columns) if columns else None if sys.stdout.isatty() else 160
    console = Console(width=width, highlight=False, markup=False)
    for model in results["models"]:
        head = vla_page.columns(results, model)
        table = Table(title=model["name"], header_style="bold", title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left")
        for row in model["rows"]:
            table.add_row(*vla_page.cells(row, results))
        console.print(table)
    for name, rate in results["floors"].items():
        console.print(f"Floor {name}: {vla_page.percent(rate)}.")
    console.print(f"\nVerdict: {results['verdict']['sentence']}")
    for detail in results["verdict"]["details"]:
        if " minus " not in detail:  # the page has all pairs, the table those with the control
            console.print(detail)
    for alarm in results["alarms"]:
        told = f"Alarm, {alarm['name']} ({alarm['where']}): {alarm['detail']}"
        console.print(told, soft_wrap=True)
    print(f"report: {(folder / 'report.html').resolve()}")


def base_named(
    base: str, source: SourceConfig, command: Swap | Compare, *more: SourceConfig
) -> Config[VlaPolicy]:
    """Find a base: fresh, of ours, or published. Fresh ones know the words of ``more`` data too.

    Raises:
        ConfigError: there is no such folder.
    """
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
    return published_named(folder, command, command.frame or min(source.recorded()))


def published_named(
    folder: Path, command: Swap | Compare, frame: int
) -> PublishedPi0Config | PublishedOpenVlaConfig:
    """Find a published model.

    Raises:
        ConfigError: a pi0 is asked for statistics, of which its folder has none.
    """
    statistics = command.statistics if isinstance(command, Swap) else ""
    settings = folder / CONFIG
    if settings.is_file() and read_json(folder, CONFIG).get("model_type") == "pi0":
        if statistics:
            raise ConfigError("--statistics are OpenVLA's; a pi0 takes those of --data")
        return PublishedPi0Config(folder=folder, tokenizer=command.tokenizer, frame=frame)
    return PublishedOpenVlaConfig(
        folder=folder,
        statistics=statistics,
        tokenizer=command.tokenizer,
        frame=frame,
        dtype=command.dtype,
    )

"""Fine-tuning a vision-language-action model, whatever it sees with, on a share of demonstrations.

The range of actions, what each camera saw on average and the contract are made from the training
part and saved with the policy, as for every policy here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from saccade.checkpoint import read_record
from saccade.config import Config, from_dict, to_dict
from saccade.data.episodes import Episodes
from saccade.data.passes.statistics import Numbers
from saccade.data.windows import ChunkWindow
from saccade.errors import ConfigError
from saccade.experiments.acting import ActingTraining, statistics, thumbnails
from saccade.experiments.acting_parts import vision
from saccade.experiments.source import Parts, Report, SourceConfig
from saccade.experiments.training import Training, count
from saccade.models.policies.policy import LIBERO_ACTIONS
from saccade.types import Contract, Objective
from saccade.vla.imitation import PretrainedVlaConfig, VlaImitation, VlaImitationConfig
from saccade.vla.openvla import OpenVla
from saccade.vla.pi0 import Pi0
from saccade.vla.pixels import PixelsConfig
from saccade.vla.policy import VlaPolicy, about
from saccade.vla.swap import Fit, SwapConfig, swap

ORIGINAL = "original"  # in the place of an encoder: the model's own towers
BATCH = 16  # pictures that an adapter is fitted on at once


@dataclass(frozen=True, kw_only=True)
class VlaTraining(ActingTraining):
    """As ``Training``, of a vision-language-action model."""

    objective: Config[VlaImitation]  # pyright: ignore[reportIncompatibleVariableOverride]
    window: ChunkWindow  # pyright: ignore[reportIncompatibleVariableOverride]

    def check(self, objective: Objective, parts: Parts) -> None:
        """Refuse data, or a window, that do not fit the policy.

        Raises:
            ConfigError: it names the option that mends it.
        """
        assert isinstance(objective, VlaImitation)
        check(objective.policy, parts)
        self.check_actor(
            objective,
            parts,
            objective.policy.state_size or len(parts.whole.state_names),
            objective.policy.cameras,
            len(objective.policy.config.action_names),
        )
        config, window = objective.policy.config, self.window
        if self.source.crop != config.pixels.crop:
            raise ConfigError(
                f"frames become squares by {self.source.crop!r}, the policy's by "
                f"{config.pixels.crop!r}; set source.crop to {config.pixels.crop!r}"
            )
        wanted = (config.history, config.stride if config.history > 1 else window.stride)
        if (window.history, window.stride) != wanted or window.chunk != chunk_of(objective.policy):
            raise ConfigError(
                f"the window has a history of {window.history}, {window.stride} apart, and a chunk "
                f"of {window.chunk}; the policy takes {wanted[0]}, {wanted[1]} apart, and answers "
                f"{chunk_of(objective.policy)}: set window.history, window.stride and window.chunk"
            )

    def prepare(self, objective: Objective, parts: Parts, report: Report) -> Parts:
        """Give the policy its contract, and the statistics of the training part."""
        assert isinstance(objective, VlaImitation)
        know(objective.policy, parts, self, report)
        sizes = self.sizes(objective)
        report(
            f"{sizes['trained_parameters']:,} parameters are trained, the policy has "
            f"{objective.size:,}"
        )
        return parts

    def sizes(self, objective: Objective) -> dict[str, int]:
        """Count parameters of what the policy sees with, and of all that is trained."""
        assert isinstance(objective, VlaImitation)
        return {
            "encoder_parameters": count(objective.policy.eyes.parameters()),
            "trained_parameters": count(p for p in objective.parameters() if p.requires_grad),
        }

    def card(self, objective: Objective, parts: Parts) -> str:
        """Write the model card of the policy, with its contract."""
        assert isinstance(objective, VlaImitation)
        policy = objective.policy
        towers = " and ".join(type(tower).__name__ for tower in policy.eyes.towers)
        branch = "" if policy.eyes.branch is None else ", and a branch"
        digests = "\n".join(f"- {part}: `{text}`" for part, text in objective.digests().items())
        adapt = objective.config.adapt
        kept = "" if adapt is None or not adapt.four_bit else f"Trained with {about(adapt)}.\n\n"
        return (
            f"# {type(policy).__name__} with {towers}{branch}\n\n"
            f"{self.about(parts)}\n## Weights before adapters are added (sha256)\n\n{digests}\n\n"
            f"{kept}"
            f"## Contract `{policy.contract.digest()}`\n\n"
            f"```json\n{json.dumps(to_dict(policy.contract), indent=2)}\n```\n"
        )


def chunk_of(policy: VlaPolicy) -> int:
    """Return how many commands a policy answers with."""
    return int(getattr(policy.config, "chunk", 1))


def check(policy: VlaPolicy, parts: Parts) -> None:
    """Refuse data whose actions, or whose instructions, a policy cannot answer.

    Raises:
        ConfigError: it names what to change.
    """
    names, own = parts.whole.action_names, policy.config.action_names
    if names != own:
        raise ConfigError(
            f"the policy commands {', '.join(own)}, the data have {', '.join(names)}; bring the "
            "model over with these data (saccade vla swap --data), or choose others"
        )
    empty = sum(not text.strip() for text in parts.whole.tasks)
    if empty:
        raise ConfigError(
            f"{empty} of {len(parts.whole.tasks)} episodes have no instruction, which this model "
            "is told; leave them out, or convert the data with --task"
        )


def know(policy: VlaPolicy, parts: Parts, training: ActingTraining, report: Report) -> None:
    """Give a policy the range of actions, the thumbnails and the contract of its training part."""
    actions = every_action(parts.train)
    grippers = [name.lower().endswith("gripper") for name in parts.whole.action_names]
    numbers = Numbers(actions.shape[1])
    numbers.update(actions)
    found = numbers.describe()
    low, high = found["q01"].tolist(), found["q99"].tolist()
    constant = (found["min"] == found["max"]).tolist()
    if isinstance(policy, Pi0):
        spread = statistics(parts.train)
        mean, std = (torch.from_numpy(np.asarray(found[n], np.float32)) for n in ("mean", "std"))
        policy.actions.set(mean, std)
        policy.states.set(spread.state_mean, spread.state_std)
    elif isinstance(policy, OpenVla):
        policy.bounds.set(
            [float(v) for v in low],
            [float(v) for v in high],
            [not gripper for gripper in grippers],
            [same and not gripper for same, gripper in zip(constant, grippers, strict=True)],
        )
        policy.count(torch.from_numpy(actions))
    if any(constant):
        still = [n for n, same in zip(parts.whole.action_names, constant, strict=True) if same]
        report(f"never moved in the training part, and so never will: {', '.join(still)}")
    policy.reference.copy_(thumbnails(parts))
    policy.contract = contract_of(policy, parts, training)


def contract_of(policy: VlaPolicy, parts: Parts, training: ActingTraining) -> Contract:
    """Return what data of this kind show and command."""
    return training.contract(
        parts,
        policy.preprocessing.image_size,
        history=policy.config.history,
        stride=policy.config.stride,
        chunk=chunk_of(policy),
    )


def as_published(base: Config[VlaPolicy]) -> VlaPolicy:
    """Return an OpenVLA that was fine-tuned on LIBERO as its authors let it act there.

    One camera, pictures of 256 pixels turned by 180 degrees, 20 commands a second
    (https://github.com/openvla/openvla, experiments/robot/libero). No data are read, so nothing
    can tell a picture from the same one upside down.

    Raises:
        ConfigError: it commands no seven axes.
        CheckpointError: the model is missing or damaged.
    """
    policy = base.build().eval()
    if policy.config.action_names != LIBERO_ACTIONS:
        raise ConfigError(
            f"the statistics are of {len(policy.config.action_names)} axes, LIBERO has "
            f"{len(LIBERO_ACTIONS)}; choose --statistics of a LIBERO suite, or give --data"
        )
    policy.contract = Contract(
        cameras=("agentview",),
        frame_size=(256, 256),
        image_size=policy.preprocessing.image_size,
        state_names=(),
        action_names=LIBERO_ACTIONS,
        fps=20.0,
        crop=policy.config.pixels.crop,
        orientation="rot180",
        chunk=1,
    )
    return policy


def every_action(episodes: Episodes) -> Float32[np.ndarray, "n a"]:
    """Return the commands of all episodes."""
    return np.concatenate(
        [episodes.numbers(e, np.arange(n))[1] for e, n in enumerate(episodes.lengths) if n]
    ).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Bring a published model into our files, with the eyes that are wanted.

    Args:
        base: the model.
        swap: what goes where.
        source: data whose cameras, size and actions the policy is to know.
        pictures: frames that an adapter is fitted on, spread over the training part.
        seed: of new weights.
        keep_bounds: leave an OpenVLA the range of actions that its statistics name, in place of
            that of the data.
    """

    base: Config[VlaPolicy]
    swap: SwapConfig
    source: SourceConfig
    pictures: int = 2000
    seed: int = 0
    keep_bounds: bool = False

    def run(self, report: Report = lambda _: None) -> tuple[VlaPolicy, Fit | None]:
        """Return the policy, ready to be saved or trained, and how well an adapter fits.

        Raises:
            ConfigError: settings, or data, that do not go together.
            DataError: data are missing or damaged.
            CheckpointError: the model is.
        """
        policy = self.base.build().eval()
        source = as_seen(self.source, policy.config.pixels)
        parts = source.open(policy.preprocessing.image_size, report)
        policy = adjusted(policy, parts)
        before = policy.digests()

        def pictures(frames: int) -> Iterator[UInt8[Tensor, "b t 3 s s"]]:
            return shown(policy, parts, self.pictures, frames, self.swap.stride)

        fit = swap(policy, self.swap, pictures, self.seed)
        require_untouched(before, policy.digests())
        training = VlaTraining(
            objective=VlaImitationConfig(policy=self.base),
            source=source,
            window=ChunkWindow(chunk=chunk_of(policy)),
        )
        known = policy.bounds.state_dict() if isinstance(policy, OpenVla) else {}
        known = {name: value.clone() for name, value in known.items()}
        know(policy, parts, training, report)
        if self.keep_bounds and isinstance(policy, OpenVla):
            policy.bounds.load_state_dict(known)
        return policy, fit


def adjusted(policy: VlaPolicy, parts: Parts) -> VlaPolicy:
    """Name the axes of actions as the data do, where there are as many, and check the rest.

    Raises:
        ConfigError: there are more or fewer, or episodes without an instruction.
    """
    names = parts.whole.action_names
    if isinstance(policy, Pi0):
        policy.resize(len(names), len(parts.whole.state_names), len(parts.cameras))
    elif len(names) != len(policy.config.action_names) and isinstance(policy, OpenVla):
        policy.resize(len(names))
    policy.config = replace(policy.config, action_names=names)
    check(policy, parts)
    return policy


def require_untouched(before: dict[str, str], after: dict[str, str]) -> None:
    """Make sure that no exchange of eyes has changed what acts.

    Raises:
        ConfigError: it has, which is a bug of ours.
    """
    for part in ("language", "head"):
        if before.get(part) != after.get(part):
            raise ConfigError(f"the {part} changed while eyes were exchanged; please report this")


def shown(
    policy: VlaPolicy, parts: Parts, pictures: int, frames: int, stride: int
) -> Iterator[UInt8[Tensor, "b t 3 s s"]]:
    """Yield moments of the training part as a policy's towers see them.

    Before the beginning of an episode its first frame stands, as when a policy acts.
    """
    lengths = parts.train.lengths
    whole = np.concatenate([np.arange(n) for n in lengths])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    places = np.unique(np.linspace(0, len(whole) - 1, pictures).round().astype(int))
    places = np.random.default_rng(0).permutation(places)  # so that held-out ones are spread
    steps = np.arange(1 - frames, 1) * stride
    for low in range(0, len(places), BATCH):
        moments = [
            parts.train.read(int(owner[i]), (whole[i] + steps).clip(0), parts.cameras[:1])["video"]
            for i in places[low : low + BATCH]
        ]
        yield policy.config.pixels.shown(torch.stack(moments)[:, :, 0])


def with_policy(training: Training, folder: Path) -> Training:
    """Return the same fine-tuning of another policy: ``--policy FOLDER``.

    Its window, and how frames become squares, become what the policy takes.

    Raises:
        ConfigError: the recipe trains no vision-language-action model.
    """
    objective: Any = training.objective
    if not (isinstance(training, VlaTraining) and isinstance(objective, VlaImitationConfig)):
        raise ConfigError(
            "the recipe fine-tunes no vision-language-action model; use vla:finetune, or another "
            "recipe of that family"
        )
    inside = folder / "policy"
    folder = inside if inside.is_dir() else folder
    policy = PretrainedVlaConfig(folder=folder)
    config: Any = from_dict(read_record(folder)["model"])
    if not hasattr(config, "eyes"):
        raise ConfigError(
            f"{folder} holds a {type(config).__name__}, no vision-language-action model; make one "
            "with saccade vla swap"
        )
    chunk = getattr(config, "chunk", 1)
    window = replace(training.window, history=config.history, stride=config.stride, chunk=chunk)
    return replace(
        training,
        objective=replace(objective, policy=policy),
        window=window,
        source=as_seen(training.source, config.pixels),
    )


def as_seen(source: SourceConfig, pixels: PixelsConfig) -> SourceConfig:
    """Return data whose frames become squares as a policy's do.

    Raises:
        ConfigError: another way was asked for.
    """
    if source.crop not in ("square", pixels.crop):
        raise ConfigError(
            f"source.crop is {source.crop!r}, the policy's frames become squares by "
            f"{pixels.crop!r}; leave it out"
        )
    return replace(source, crop=pixels.crop)


def encoder_named(name: str) -> Any:
    """Find the encoder of a ``--encoder``: of a run, published, or None for the model's own."""
    return None if name == ORIGINAL else vision(Path(name))

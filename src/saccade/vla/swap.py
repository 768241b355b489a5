"""Exchange the eyes of a vision-language-action model, and leave the rest of it alone.

    keep         its own eyes, as they are
    replace      one encoder in place of all towers, with a new projector. With the model's own
                 towers it is the control: the same new projector, and nothing else new
    replace_one  one tower's place, through a linear map that is fitted by least squares so that it
                 gives what the old tower gave; the old projector stays of use from the first step
    add          one more encoder, through a map that starts at zero: at first, nothing changes

Which places are in which part of the picture matters where features stand side by side, so tokens
are resampled to the grid of the old towers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError, DataError
from saccade.types import Encoder
from saccade.vla.eyes import Eyes, EyesConfig, ProjectorConfig
from saccade.vla.policy import VlaPolicy
from saccade.vla.towers import EncoderTower, EncoderTowerConfig

Mode = Literal["keep", "replace", "replace_one", "add"]
Pictures = Callable[[int], Iterable[UInt8[Tensor, "b t 3 s s"]]]
RIDGE = 1e-6  # of the mean square of the features, so that alike ones leave a solution
HELD_OUT = 5  # every fifth picture judges the fit


@dataclass(frozen=True, kw_only=True)
class SwapConfig:
    """What goes where.

    Args:
        mode: see above.
        encoder: what goes in; None keeps the model's own towers (``replace`` is then the control).
        slot: which tower ``replace_one`` takes the place of: 0 is OpenVLA's DINOv2, 1 its SigLIP.
        frames: ``repeat`` shows an encoder of clips the newest frame several times, ``history``
            the last ones, ``stride`` steps apart.
        stride: see there.
        keep_grid: leave the encoder's own number of tokens (``replace`` only), which is cheaper
            where it has fewer.
    """

    mode: Mode
    encoder: Config[Encoder] | None = None
    slot: int = 0
    frames: Literal["repeat", "history"] = "repeat"
    stride: int = 1
    keep_grid: bool = False

    def check(self, eyes: Eyes) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: it says what to change.
        """
        if self.encoder is None and self.mode not in ("keep", "replace"):
            raise ConfigError(
                f"{self.mode} needs an encoder that is put in; name one with --encoder, or use "
                "replace, which re-projects the model's own towers as a control"
            )
        if self.encoder is not None and self.mode == "keep":
            raise ConfigError("keep changes nothing, but an encoder is named; choose another mode")
        if self.mode == "replace_one" and not 0 <= self.slot < len(eyes.towers):
            raise ConfigError(
                f"slot is {self.slot}, the model has {len(eyes.towers)} towers: 0 to "
                f"{len(eyes.towers) - 1}"
            )
        if self.keep_grid and self.mode != "replace":
            raise ConfigError(
                f"{self.mode} puts features side by side, so there must be as many tokens; "
                "leave keep_grid to replace"
            )
        if eyes.branch is not None and self.mode != "keep":
            raise ConfigError("the model has a branch already; swap the eyes of the one before it")


class Fit(NamedTuple):
    """How well an adapter gives what the old tower gave, on pictures that it was not fitted on."""

    r2: float
    pictures: int
    held_out: int


def swap(
    policy: VlaPolicy,
    config: SwapConfig,
    pictures: Pictures = lambda frames: (),
    seed: int = 0,
) -> Fit | None:
    """Exchange the eyes of a policy, in place.

    Args:
        policy: whose.
        config: what for what.
        pictures: returns batches of so many frames as towers see them, ``config.stride`` steps
            apart, the newest last; ``replace_one`` fits its adapter on them, so they must be what
            the policy will be shown.
        seed: of new weights.

    Raises:
        ConfigError: settings that do not go together.
        DataError: there are no pictures to fit on.
    """
    old = policy.eyes
    config.check(old)
    if config.mode == "keep":
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        eyes = exchanged(old, config).build()
    _hand_over(old, eyes, config)
    fit = None
    if config.mode == "replace_one":
        shown = pictures(eyes.frames if config.frames == "history" else 1)
        fit = fit_adapter(eyes.towers[config.slot], old.towers[config.slot], shown)
    weight = next(old.projector.parameters())
    for part in (eyes.projector, eyes.branch):
        if part is not None:
            part.to(weight.device)
    policy.eyes = eyes
    history = eyes.frames if config.frames == "history" else 1
    policy.config = replace(policy.config, eyes=eyes.config, history=history, stride=config.stride)
    return fit


def exchanged(old: Eyes, config: SwapConfig) -> EyesConfig:
    """Describe the new eyes."""
    towers = old.config.towers
    target, depth = old.config.projector.target, 1 if old.config.projector.depth == 1 else 2
    if config.encoder is None:
        projector = replace(old.config.projector, depth=depth, normalise=True)
        return EyesConfig(towers=towers, projector=projector)
    grid = 0 if config.keep_grid else old.grid
    ours = EncoderTowerConfig(encoder=config.encoder, grid=grid)
    if config.mode == "add":
        return EyesConfig(towers=towers, projector=old.config.projector, branch=ours)
    if config.mode == "replace_one":
        fitted = replace(ours, adapter=old.towers[config.slot].dim)
        placed = (*towers[: config.slot], fitted, *towers[config.slot + 1 :])
        return EyesConfig(towers=placed, projector=old.config.projector)
    width = ours.build().dim
    projector = ProjectorConfig(source=width, target=target, depth=depth, normalise=True)
    return EyesConfig(towers=(ours,), projector=projector)


def _hand_over(old: Eyes, new: Eyes, config: SwapConfig) -> None:
    """Put the towers that stay, and their projector, into the new eyes."""
    for i, tower in enumerate(old.towers):
        taken = config.mode == "replace" and config.encoder is not None
        if not taken and not (config.mode == "replace_one" and i == config.slot):
            new.towers[i] = tower
    if config.mode in ("add", "replace_one"):
        new.projector = old.projector


@torch.no_grad()
def fit_adapter(
    tower: nn.Module, old: nn.Module, pictures: Iterable[UInt8[Tensor, "b t 3 s s"]]
) -> Fit:
    """Make a tower's adapter give what another tower gives, by least squares over all tokens.

    Every fifth picture is left out of the fit and judges it.

    Raises:
        DataError: there are too few pictures.
    """
    assert isinstance(tower, EncoderTower)
    adapter = tower.adapter
    assert adapter is not None
    width, target = adapter.in_features, adapter.out_features
    square = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    cross = torch.zeros(width + 1, target, dtype=torch.float64)
    judged: list[tuple[Float[Tensor, "n e"], Float[Tensor, "n d"]]] = []
    seen = 0
    for batch in pictures:
        rows = torch.arange(seen, seen + len(batch)) % HELD_OUT == HELD_OUT - 1
        seen += len(batch)
        x, y = tower.features(batch).double().cpu(), old(batch).double().cpu()
        x = torch.cat([x, torch.ones(*x.shape[:2], 1, dtype=torch.float64)], 2)
        for chosen, keep in ((rows, False), (~rows, True)):
            inputs, outputs = x[chosen].flatten(0, 1), y[chosen].flatten(0, 1)
            if keep:
                square += inputs.T @ inputs
                cross += inputs.T @ outputs
            elif len(inputs):
                judged.append((inputs, outputs))
    tokens = int(square[-1, -1])
    if tokens <= width or not judged:
        raise DataError(
            f"{seen} pictures give {tokens} tokens, too few to fit a map of {width} features; "
            "give more episodes (--data), or more --pictures of them"
        )
    ridge = RIDGE * square.diagonal()[:-1].mean()
    square.diagonal()[:-1] += ridge
    solved = torch.linalg.solve(square, cross)
    adapter.weight.copy_(solved[:-1].T)
    adapter.bias.copy_(solved[-1])
    wrong = sum(float((x @ solved - y).square().sum()) for x, y in judged)
    mean = torch.cat([y for _, y in judged]).mean(0)
    spread = sum(float((y - mean).square().sum()) for _, y in judged)
    held_out = sum(1 for i in range(seen) if i % HELD_OUT == HELD_OUT - 1)
    return Fit(1 - wrong / max(spread, 1e-12), seen, held_out)

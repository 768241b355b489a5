"""The energy landscape: how far from a goal a world model imagines each of many actions to lead.

If the goal is what the robot saw after an action that it took, a useful model's landscape has its
minimum at that action. The default grid is the official notebook's (5 values from -7.5 to 7.5 cm
along x, y and z each, no rotation, gripper still: 125 actions;
https://github.com/facebookresearch/vjepa2, ``notebooks/energy_landscape_example.ipynb``); slices
vary any axes and hold the others at the true action. A longer horizon repeats one action.

Two controls say what a minimum is worth: played backwards, the landscape must turn round; with the
goal of another episode, the true action must be no better than any other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saccade import poses
from saccade.data.episodes import POSITION, ROTATION
from saccade.errors import ConfigError, DataError
from saccade.evals.energy import ImaginedEnergy, Metric, evaluating
from saccade.evals.planning import Moment
from saccade.types import WorldModel

Kind = Literal["position", "rotation", "gripper", "other"]
HALF_WIDTH: Mapping[Kind, float] = {"position": 0.075, "rotation": 0.15, "gripper": 0.75}
EDGE = 1e-6  # of the half-width: a truth on the border is in range, whatever its rounding
Shaped = Float64[np.ndarray, "*grid"]


def kind_of(axis: str) -> Kind:
    """Say what an axis of an action measures: metres, radians, a gripper, or something else."""
    last = axis.rpartition(".")[2]
    if last in POSITION:
        return "position"
    if last in ROTATION:
        return "rotation"
    return "gripper" if "gripper" in last else "other"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Candidates that vary along some axes of an action, equally spaced around zero.

    Args:
        names: the axes that vary; the last one varies fastest.
        half_width: the largest value of each, in metres, radians or openings of the gripper.
        steps: values of each; an odd number has standing still among them.
        others: what the other axes are held at: ``zero``, or the ``truth``, which makes the grid a
            slice through the true action.
    """

    names: tuple[str, ...] = ("x", "y", "z")
    half_width: tuple[float, ...] = (0.075, 0.075, 0.075)
    steps: tuple[int, ...] = (5, 5, 5)
    others: Literal["zero", "truth"] = "zero"

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.half_width), len(self.steps)}
        if not self.names or len(sizes) != 1 or len(set(self.names)) != len(self.names):
            raise ConfigError(
                f"a grid needs different axes, and a half-width and steps for each, not "
                f"{self.names}, {self.half_width} and {self.steps}"
            )
        if not all(0 < width < math.inf for width in self.half_width) or min(self.steps) < 2:
            raise ConfigError(
                f"a grid needs half-widths above 0 and at least 2 steps along each axis, not "
                f"{self.half_width} and {self.steps}"
            )

    @cached_property
    def values(self) -> tuple[Float64[np.ndarray, " _"], ...]:
        """Values along each axis, in increasing order."""
        pairs = zip(self.half_width, self.steps, strict=True)
        return tuple(np.linspace(-width, width, steps) for width, steps in pairs)

    @property
    def spacing(self) -> tuple[float, ...]:
        """From one value to the next along each axis."""
        pairs = zip(self.half_width, self.steps, strict=True)
        return tuple(2 * width / (steps - 1) for width, steps in pairs)

    @cached_property
    def cells(self) -> Float64[np.ndarray, "m d"]:
        """Values of the varied axes of each candidate."""
        return np.stack([part.ravel() for part in np.meshgrid(*self.values, indexing="ij")], 1)

    def places(self, names: Sequence[str]) -> list[int]:
        """Find the varied axes among a model's.

        Raises:
            ConfigError: an axis that the model does not have.
        """
        missing = [name for name in self.names if name not in names]
        if missing:
            raise ConfigError(f"the grid varies {missing}; the model's actions are {list(names)}")
        return [names.index(name) for name in self.names]

    def candidates(
        self, truth: Float64[np.ndarray, " a"], names: Sequence[str]
    ) -> Float64[np.ndarray, "m a"]:
        """Return every candidate action."""
        actions = np.tile(self.held(truth), (len(self.cells), 1))
        actions[:, self.places(names)] = self.cells
        return actions

    def projected(
        self, truth: Float64[np.ndarray, " a"], names: Sequence[str]
    ) -> Float64[np.ndarray, " a"]:
        """Return the truth as far as the grid could have it: other axes as all candidates have."""
        action, places = self.held(truth), self.places(names)
        action[places] = truth[places]
        return action

    def held(self, truth: Float64[np.ndarray, " a"]) -> Float64[np.ndarray, " a"]:
        """Return what the axes are held at that do not vary."""
        return truth.copy() if self.others == "truth" else np.zeros_like(truth)

    def covers(self, truth: Float64[np.ndarray, " a"], names: Sequence[str]) -> bool:
        """Tell whether the truth lies within the grid along the axes that vary."""
        limit = np.array(self.half_width)
        return bool((np.abs(truth[self.places(names)]) <= limit * (1 + EDGE)).all())

    def widened(self, factor: float) -> "Grid":
        """Return a grid that reaches further with the same number of candidates."""
        return grid(self.names, [factor * w for w in self.half_width], self.steps, self.others)


def grid(
    names: Sequence[str] = ("x", "y", "z"),
    half_width: float | Sequence[float] | None = None,
    steps: int | Sequence[int] = 5,
    others: Literal["zero", "truth"] = "zero",
) -> Grid:
    """Make a grid; one half-width or number of steps holds for all axes.

    Without a half-width it is 7.5 cm, 0.15 rad or 0.75 openings of the gripper.

    Raises:
        ConfigError: an axis of another kind needs a half-width, or see ``Grid``.
    """
    unknown = [name for name in names if kind_of(name) == "other"]
    if half_width is None and unknown:
        raise ConfigError(f"the axes {unknown} are of no known unit; give their half-widths")
    if half_width is None:
        half_width = [HALF_WIDTH[kind_of(name)] for name in names]
    elif isinstance(half_width, float | int):
        half_width = [half_width] * len(names)
    steps = [steps] * len(names) if isinstance(steps, int) else steps
    widths = tuple(float(width) for width in half_width)
    return Grid(names=tuple(names), half_width=widths, steps=tuple(steps), others=others)


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    """Energies of one moment, and what they are compared with.

    ``at_truth`` is the energy of the true action; ``at_projection`` that of the truth as far as
    the grid could have it (see ``Grid.projected``), to which candidates are compared; ``at_zero``
    that of standing still. ``no_change`` is the distance of the goal from the present without any
    model: what predicting no change would give.
    """

    episode: int
    start: int
    grid: Grid
    names: tuple[str, ...]  # of the action's axes
    truth: Float64[np.ndarray, " a"]  # of one step; the mean, where several were taken
    horizon: int
    metric: Metric
    energy: Shaped
    at_truth: float
    at_projection: float
    at_zero: float
    no_change: float

    @cached_property
    def lowest(self) -> Float64[np.ndarray, "i d"]:
        """Cells of lowest energy; more than one only where several are equal to the last bit."""
        flat = self.energy.ravel()
        return self.grid.cells[flat == flat.min()]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; energies keep nine digits, which is all of single precision."""
        grid = {
            "names": list(self.grid.names),
            "half_width": list(self.grid.half_width),
            "steps": list(self.grid.steps),
            "others": self.grid.others,
        }
        return {
            "episode": self.episode,
            "start": self.start,
            "grid": grid,
            "names": list(self.names),
            "truth": self.truth.tolist(),
            "horizon": self.horizon,
            "metric": self.metric,
            "energy": [float(f"{value:.9g}") for value in self.energy.ravel()],
            "at_truth": self.at_truth,
            "at_projection": self.at_projection,
            "at_zero": self.at_zero,
            "no_change": self.no_change,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Landscape":
        """Invert ``to_json``.

        Raises:
            DataError: something is missing, or is not what ``to_json`` writes.
        """
        try:
            size = value["grid"]
            found = grid(size["names"], size["half_width"], size["steps"], size["others"])
            energy = np.array(value["energy"], np.float64).reshape(found.steps)
            arrays = {"truth": np.array(value["truth"], np.float64), "energy": energy}
            names = tuple(value["names"])
            found.places(names)
            return cls(**{**value, "grid": found, "names": names, **arrays})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"this is no landscape that saccade wrote ({error}); compute it again"
            ) from error


def landscapes(
    model: WorldModel,
    moment: Moment,
    grids: Sequence[Grid],
    metric: Metric = "l1",
    memory: float = 2.0,
) -> list[Landscape]:
    """Compute several landscapes of one moment; what it looked at before is looked at once.

    Args:
        model: imagines; in evaluation mode meanwhile, so that no dropout blurs the energies.
        moment: its action is the truth; one action is repeated over its horizon.
        grids: candidates.
        metric: mean absolute or squared distance of features.
        memory: gigabytes that candidates imagined at once may take, by estimate.

    Raises:
        ConfigError: a grid varies an axis that the model does not have; the goal's features are
            not of the context's size.
        DataError: the action is not finite, or not of the model's axes.
        NumericError: an energy is not finite.
    """
    truth = _truth(moment, model.action_names)
    names, zero = model.action_names, np.zeros_like(truth)
    parts = [truth[None], zero[None]]
    for candidates in grids:
        parts += [candidates.candidates(truth, names), candidates.projected(truth, names)[None]]
    actions = torch.from_numpy(np.concatenate(parts)).to(moment.action)
    with evaluating(model), torch.no_grad():
        energy = ImaginedEnergy(model, moment.look(model), moment.goal, metric, memory)
        repeated = actions[:, None].expand(-1, len(moment.action), -1)
        values = energy(repeated).double().cpu().numpy()
    at_truth, at_zero, *rest = np.split(values, np.cumsum([len(part) for part in parts])[:-1])
    return [
        Landscape(
            episode=moment.episode,
            start=moment.start,
            grid=candidates,
            names=tuple(names),
            truth=truth,
            horizon=len(moment.action),
            metric=metric,
            energy=found.reshape(candidates.steps),
            at_truth=float(at_truth[0]),
            at_projection=float(projection[0]),
            at_zero=float(at_zero[0]),
            no_change=_no_change(moment, metric),
        )
        for candidates, found, projection in zip(grids, rest[::2], rest[1::2], strict=True)
    ]


def _truth(moment: Moment, names: Sequence[str]) -> Float64[np.ndarray, " a"]:
    """Return the action that, repeated, moves as far as the logged ones."""
    where = f"the action at step {moment.start} of episode {moment.episode}"
    if moment.action.shape[1] != len(names):
        raise DataError(
            f"{where} has {moment.action.shape[1]} axes; the model's actions are {list(names)}"
        )
    truth = moment.action.double().mean(0).cpu().numpy()
    if not np.isfinite(truth).all():
        raise DataError(f"{where} is {truth.tolist()}, not finite; leave the episode out")
    return truth


def _no_change(moment: Moment, metric: Metric) -> float:
    wide = torch.promote_types(moment.goal.dtype, torch.float32)
    apart = moment.features[-1].to(wide) - moment.goal.to(wide)
    return float((apart.abs() if metric == "l1" else apart.square()).mean())


def backwards(moment: Moment, after: Float[Tensor, " s"], names: tuple[str, ...]) -> Moment:
    """Play a moment in reverse: from its goal back to what was seen first.

    The truth is undone: displacements and grippers change sign, rotations are inverted. Frames
    before the moment's are left out, because reversed time has not seen them.

    Args:
        moment: to be reversed.
        after: the state when the goal was seen.
        names: the model's axes of actions.

    Raises:
        DataError: the state after is not of the size of the state before.
        ConfigError: the axes name a part of a rotation.
    """
    if after.shape != moment.state.shape[1:]:
        raise DataError(
            f"the state after step {moment.start} of episode {moment.episode} has "
            f"{len(after)} axes, the one before {moment.state.shape[1]}"
        )
    action = poses.difference(moment.action, torch.zeros_like(moment.action), names).flip(0)
    return moment._replace(
        features=moment.goal[None],
        state=after[None].to(moment.state),
        earlier=moment.earlier[:0],
        last=None,
        action=action,
        goal=moment.features[-1],
    )


def with_other_goals(moments: Sequence[Moment], seed: int = 0) -> list[Moment]:
    """Give each moment the goal of a random moment of another episode; the truth stays.

    Raises:
        DataError: there is only one episode.
    """
    episode = np.array([moment.episode for moment in moments])
    if len(np.unique(episode)) < 2:
        raise DataError("goals are shuffled between episodes; there is only one, give at least two")
    rng = np.random.default_rng(seed)
    others = [int(rng.choice(np.flatnonzero(episode != one))) for one in episode]
    pairs = zip(moments, others, strict=True)
    return [moment._replace(goal=moments[other].goal) for moment, other in pairs]

"""Camera calibration: which way does a world model think that the robot's axes point?

A model that was trained with cameras in some places believes, under a camera that stands
elsewhere, that the robot moved in a turned frame (arXiv 2506.09985, B.4: the linear map from
inferred to true actions is close to a rotation, whose angle grows with the camera's). So: let the
robot move anyhow, infer each action by planning to the frame that followed, and fit the rotation
between inferred and measured motion. No label and no task is needed.

    true = scale * R inferred                   of displacements
    R_true = R R_inferred R^T                   of turns: their axes are displacements too

The rotation is the orthogonal Procrustes solution with determinant +1 (Kabsch, 1976; the scale
is Umeyama's, 1991, without a translation: standing still is standing still in every frame).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor

from saccade import geometry, poses
from saccade.checkpoint import write_atomic
from saccade.errors import ConfigError, DataError
from saccade.evals.planners import Planner, generator_of
from saccade.evals.planning import Moment
from saccade.types import Context, WorldModel

POSITION = ("x", "y", "z")
SPANS = 0.1  # of the widest direction: motion in a second direction must be at least this wide
LEAST = 8  # moves
CLIPPED = 0.1  # share of moves that may lie at the edge of the planner's box
MIRROR = 0.5  # a mirror image that leaves less than this share of the squared error is believed


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The rotation from a model's frame to the robot's, and how well it is known.

    Args:
        rotation: rows of ``R``.
        scale: 1 unless it was asked for.
        angle: of the rotation, in degrees; ``angle_low`` and ``angle_high`` bound it (95 %,
            resampling episodes, or moves where there is one episode).
        uncertainty: 95 % of resampled rotations are within so many degrees of this one.
        before: root mean square distance of inferred from true motion, in metres.
        residual: the same after calibration.
        condition: ratio of the largest to the smallest singular value of the unconstrained
            least-squares map, within the directions that the motion spans: 1 is a pure rotation.
        moves: how many were used.
        episodes: how many they came from.
    """

    rotation: tuple[tuple[float, ...], ...]
    scale: float
    angle: float
    angle_low: float
    angle_high: float
    uncertainty: float
    before: float
    residual: float
    condition: float
    moves: int
    episodes: int

    @property
    def matrix(self) -> Float64[np.ndarray, "3 3"]:
        """Return ``R``."""
        return np.array(self.rotation)

    def to_robot(
        self, action: Float[Tensor, "*b a"], names: tuple[str, ...]
    ) -> Float[Tensor, "*b a"]:
        """Express actions that a model means in the robot's frame."""
        return _turned(action, names, self.matrix, self.scale)

    def to_model(
        self, action: Float[Tensor, "*b a"], names: tuple[str, ...]
    ) -> Float[Tensor, "*b a"]:
        """Express the robot's actions as the model would; inverts ``to_robot``."""
        return _turned(action, names, self.matrix.T, 1 / self.scale)

    def save(self, path: Path) -> None:
        """Write JSON, to be kept beside the model."""
        write_atomic(Path(path), json.dumps(asdict(self), indent=2).encode())

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Read what ``save`` wrote.

        Raises:
            DataError: the file is absent or damaged, or does not hold a rotation.
        """
        try:
            values = json.loads(Path(path).read_text())
            turn = np.array(values.pop("rotation"), float)
            if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6):
                raise ValueError(f"its matrix {turn.tolist()} is no rotation")
            if np.linalg.det(turn) < 0 or not float(values["scale"]) > 0:
                raise ValueError("it mirrors, or its scale is not positive")
            counts = {name: int(values.pop(name)) for name in ("moves", "episodes")}
            numbers = {name: float(value) for name, value in values.items()}
            return Calibration(rotation=tuple(map(tuple, turn.tolist())), **numbers, **counts)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise DataError(f"{path} is not a calibration ({error}); calibrate again") from error


class Calibrated(WorldModel):
    """A world model that takes its actions in the robot's frame, so that plans are in it too.

    Planners, landscapes and closed loops use it like the model itself. States stay as they are:
    they were always the robot's.
    """

    def __init__(self, model: WorldModel, calibration: Calibration) -> None:
        super().__init__()
        self.model, self.calibration = model, calibration
        self.state_names, self.action_names = model.state_names, model.action_names
        self.step_seconds = model.step_seconds

    def encode(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n d"]:
        """Encode as the model does."""
        return self.model.encode(video)

    def look(
        self,
        features: Float[Tensor, "t n d"],
        state: Float[Tensor, "t s"],
        action: Float[Tensor, "k a"],
    ) -> Context:
        """Tell the model in its own frame what was done."""
        return self.model.look(
            features, state, self.calibration.to_model(action, self.action_names)
        )

    def imagine(self, context: Context, action: Float[Tensor, "b k a"]) -> Float[Tensor, "b k n d"]:
        """Imagine the robot's actions."""
        return self.model.imagine(context, self.calibration.to_model(action, self.action_names))

    def candidate_bytes(self, context: Context, horizon: int, gradient: bool = False) -> int:
        """Return what the model says."""
        return self.model.candidate_bytes(context, horizon, gradient)

    def moved(
        self, state: Float[Tensor, "*b s"], action: Float[Tensor, "*b a"]
    ) -> Float[Tensor, "*b s"]:
        """Move the robot, in its own frame."""
        return self.model.moved(state, action)

    def measured(
        self, before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"]
    ) -> Float[Tensor, "*b a"]:
        """Return what the robot did, in its own frame."""
        return self.model.measured(before, after)


def infer_motion(
    model: WorldModel, planner: Planner, places: Iterable[Moment], seed: int = 0
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
    """Plan from each frame to the one that followed; return inferred and true motion, episodes.

    Raises:
        DataError: no motion, or motion that the planner's box is too narrow for: what is clipped
            looks turned.
    """
    columns = _columns(model.action_names, POSITION)
    edge = planner.limits.space(model.action_names, planner.horizon).limit.sum(0)[columns] * 0.98
    inferred, true, episodes = [], [], []
    for place in places:
        generator = generator_of(seed, place.episode, place.start)
        plan = planner.plan(model, place.look(model), place.goal, generator)
        inferred.append(plan.actions.sum(0)[columns].double().cpu())
        true.append(place.action.sum(0)[columns].double().cpu())
        episodes.append(place.episode)
    if not episodes:
        raise DataError("there is no motion to calibrate with; the episodes hold no step")
    guess = torch.stack(inferred)
    clipped = float((guess.abs() >= edge).any(1).double().mean())
    if clipped > CLIPPED:
        raise DataError(
            f"{clipped:.0%} of the inferred motion lies at the edge of the planner's box; widen "
            "its limits, or move the robot less at a time"
        )
    return guess.numpy(), torch.stack(true).numpy(), np.array(episodes)


def fit(
    inferred: Float64[np.ndarray, "n 3"],
    true: Float64[np.ndarray, "n 3"],
    episode: Int[np.ndarray, " n"],
    scale: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Calibration:
    """Fit the rotation from inferred to true motion, and one factor for all axes if ``scale``.

    Raises:
        DataError: too few moves, motion along one line only, a value that is not finite, or
            inferred motion that is a mirror image of the true one.
    """
    _check(inferred, true)
    _, unit = np.unique(episode, return_inverse=True)
    episodes = int(unit.max()) + 1
    if episodes == 1:
        unit = np.arange(len(true))
    moments = np.zeros((unit.max() + 1, 3, 3))
    np.add.at(moments, unit, true[:, :, None] * inferred[:, None, :])
    rotation, mirrored, strength = _kabsch(moments.sum(0))
    factor = strength / (inferred**2).sum() if scale else 1.0
    error = ((true - factor * inferred @ rotation.T) ** 2).sum()
    if ((true - factor * inferred @ mirrored.T) ** 2).sum() < MIRROR * error:
        raise DataError(
            "the inferred motion is a mirror image of the true one, which no camera makes; look "
            "whether pictures are flipped or an axis of the actions has the wrong sign"
        )
    drawn = np.random.default_rng(seed).multinomial(
        len(moments), np.full(len(moments), 1 / len(moments)), resamples
    )
    resampled = _kabsch(np.einsum("re,eij->rij", drawn.astype(float), moments))[0]
    angle = _degrees(rotation)
    low, high = np.quantile(_degrees(resampled), [0.025, 0.975])
    return Calibration(
        rotation=tuple(tuple(row) for row in rotation.tolist()),
        scale=float(factor),
        angle=float(angle),
        angle_low=float(low),
        angle_high=float(high),
        uncertainty=float(np.quantile(_degrees(resampled @ rotation.T), 0.95)),
        before=float(np.sqrt(((true - inferred) ** 2).sum(1).mean())),
        residual=float(np.sqrt(error / len(true))),
        condition=_condition(inferred, true),
        moves=len(true),
        episodes=episodes,
    )


def _check(inferred: Float64[np.ndarray, "n 3"], true: Float64[np.ndarray, "n 3"]) -> None:
    """Refuse motion from which no rotation can be told."""
    if len(true) < LEAST:
        raise DataError(f"{len(true)} moves are too few to calibrate with; record at least {LEAST}")
    for name, motion in (("inferred", inferred), ("true", true)):
        if not np.isfinite(motion).all():
            raise DataError(f"the {name} motion is not finite; leave such moves out")
        widths = np.linalg.svd(motion, compute_uv=False) / np.sqrt(len(motion))
        if widths[1] < SPANS * widths[0] or widths[0] == 0:
            raise DataError(
                f"the {name} motion is {widths[0]:.2g} m wide in one direction and {widths[1]:.2g} "
                f"in the next, which leaves a turn open; move in at least two directions"
            )


def _kabsch(
    moment: Float64[np.ndarray, "*b 3 3"],
) -> tuple[Float64[np.ndarray, "*b 3 3"], Float64[np.ndarray, "*b 3 3"], Any]:
    """Maximise ``trace(R^T M)`` over rotations, and over mirror images; and the first maximum."""
    left, size, right = np.linalg.svd(moment)
    sign = np.sign(np.linalg.det(left @ right))[..., None]
    proper, improper = (np.concatenate([np.ones((*s.shape[:-1], 2)), s], -1) for s in (sign, -sign))
    rotation, mirrored = ((left * signs[..., None, :]) @ right for signs in (proper, improper))
    return rotation, mirrored, (size * proper).sum(-1)


def _degrees(rotation: Float64[np.ndarray, "*b 3 3"]) -> Float64[np.ndarray, "*b"]:
    vector = geometry.matrix_to_rotation_vector(rotation)
    return np.asarray(np.degrees(np.linalg.norm(vector, axis=-1)))


def _condition(inferred: Float64[np.ndarray, "n 3"], true: Float64[np.ndarray, "n 3"]) -> float:
    """Fit any linear map, in the directions that the inferred motion spans."""
    _, widths, axes = np.linalg.svd(inferred, full_matrices=False)
    spanned = axes[widths >= SPANS * widths[0]]
    free, *_ = np.linalg.lstsq(inferred @ spanned.T, true, rcond=None)
    sizes = np.linalg.svd(free, compute_uv=False)
    return float(sizes[0] / max(sizes[-1], np.finfo(float).tiny))


def _turned(
    action: Float[Tensor, "*b a"],
    names: tuple[str, ...],
    rotation: Float64[np.ndarray, "3 3"],
    scale: float,
) -> Float[Tensor, "*b a"]:
    """Turn displacements and rotations into another frame; what else there is stays."""
    turn = torch.from_numpy(rotation).to(action.device)
    place = _columns(names, POSITION)
    before, turned = action.double(), action.double().clone()
    turned[..., place] = scale * before[..., place] @ turn.T
    if set(poses.VECTOR) <= set(names):
        vector = _columns(names, poses.VECTOR)
        turned[..., vector] = before[..., vector] @ turn.T
    if set(poses.EULER) <= set(names):
        euler = _columns(names, poses.EULER)
        matrix = turn @ poses.euler_xyz_to_matrix(before[..., euler]) @ turn.T
        turned[..., euler] = poses.matrix_to_euler_xyz(matrix)
    return turned.to(action.dtype)


def _columns(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    if any(name not in names for name in wanted):
        raise ConfigError(f"the model acts on {list(names)}; calibration needs {', '.join(wanted)}")
    return [names.index(name) for name in wanted]

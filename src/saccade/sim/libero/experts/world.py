"""What an expert knows of a scene: read from the simulator, in metres, in the world frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

Vector = Float64[np.ndarray, "3"]
Rotation = Float64[np.ndarray, "3 3"]
Goal = tuple[str, ...]  # a predicate of BDDL in small letters, and what it is about

_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_PLANE, _HINGE = 0, 3  # MuJoCo's numbers of a geom type and a joint type
_SAMPLES = 25  # along a way that is looked at for obstacles


@dataclass(frozen=True)
class Boxes:
    """Oriented boxes; the columns of ``axes`` are the directions of the ``half`` sizes."""

    centre: Float64[np.ndarray, "g 3"]
    axes: Float64[np.ndarray, "g 3 3"]
    half: Float64[np.ndarray, "g 3"]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.half)

    def some(self, which: Bool[np.ndarray, " g"]) -> "Boxes":
        """Return those of which ``which`` is true."""
        return Boxes(self.centre[which], self.axes[which], self.half[which])

    def corners(self) -> Float64[np.ndarray, "c 3"]:
        """Return the eight corners of each."""
        return (self._corners() + self.centre[:, None]).reshape(-1, 3)

    def tops(self) -> Float64[np.ndarray, " g"]:
        """Return the greatest height of each."""
        return self.centre[:, 2] + (np.abs(self.axes[:, 2]) * self.half).sum(1)

    def distance(self, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
        """Return how far each point is from the nearest box, 0 inside."""
        local = np.einsum("ngi,gij->ngj", points[:, None] - self.centre, self.axes)
        outside = np.maximum(np.abs(local) - self.half, 0)
        return np.linalg.norm(outside, axis=2).min(1, initial=np.inf)

    def _corners(self) -> Float64[np.ndarray, "g 8 3"]:
        return np.einsum("gij,gcj->gci", self.axes, _SIGNS * self.half[:, None])


@dataclass(frozen=True)
class Joint:
    """A joint of a fixture: a drawer, a door or a knob."""

    number: int
    body: int  # what it moves
    span: tuple[float, float]  # metres or radians


class World:
    """Reads the scene of a ``ControlEnv`` after a reset; it changes nothing."""

    def __init__(self, env: Any) -> None:
        self._domain, self._sim = env.env, env.sim
        self._model, self._data = env.sim.model._model, env.sim.data._data
        model = self._model
        self._root = model.body_rootid[model.geom_bodyid]
        collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        self._solid = collides & (model.geom_type != _PLANE)
        self._robot = int(model.body_rootid[model.body("robot0_link0").id])

    def goals(self) -> list[Goal]:
        """Return what the task wants, as its BDDL file has it."""
        return [(g[0].lower(), *g[1:]) for g in self._domain.parsed_problem["goal_state"]]

    def holds(self, goal: Goal) -> bool:
        """Whether a goal is reached at this moment."""
        return bool(self._domain._eval_predicate(list(goal)))

    def hand(self) -> tuple[Vector, Rotation]:
        """Return the point between the finger tips, and the hand's axes as columns.

        The fingers close along the first axis and point along the third.
        """
        site = self._data.site("gripper0_grip_site")
        return site.xpos.copy(), site.xmat.reshape(3, 3).copy()

    def shoulder(self) -> Vector:
        """Return where the arm's shoulder is, from which it reaches."""
        return self._data.body("robot0_link2").xpos.copy()

    def wrist(self) -> tuple[float, float]:
        """Return how far the arm's last joint, about the hand's axis, is turned; and its limit."""
        joint = self._model.joint("robot0_joint7").id
        turned = self._data.qpos[self._model.jnt_qposadr[joint]]
        return float(turned), float(self._model.jnt_range[joint, 1])

    def held(self, name: str) -> bool:
        """Whether both fingers touch an object."""
        gripper = self._domain.robots[0].gripper
        return bool(self._domain._check_grasp(gripper, self._domain.get_object(name).contact_geoms))

    def origin(self, name: str) -> Vector:
        """Return the origin of an object, by which LIBERO judges where it is."""
        return self._data.xpos[self._body(name)].copy()

    def place(self, name: str) -> Vector:
        """Return the position of what a goal names: an object, a fixture or a region."""
        if name in self._domain.object_sites_dict:
            return self._data.site(name).xpos.copy()
        return self.origin(name)

    def half_size(self, name: str) -> Vector:
        """Return the half sizes of a region along the world's axes; 0 of what is no region."""
        region = self._domain.object_sites_dict.get(name)
        if region is None:
            return np.zeros(3)
        return np.abs(self._data.site(name).xmat.reshape(3, 3)) @ np.asarray(region.size, float)

    def solid(self, name: str) -> Boxes:
        """Return what of an object other things collide with."""
        own = self._root == self._body(name)
        return self._boxes(np.flatnonzero(own & self._solid & (self._model.geom_group == 0)))

    def part(self, joint: Joint) -> Boxes:
        """Return what a joint moves."""
        return self._boxes(np.flatnonzero((self._model.geom_bodyid == joint.body) & self._solid))

    def obstacles(self, skip: Sequence[str] = ()) -> Boxes:
        """Return everything solid but the robot, the table's plane and ``skip``."""
        out = np.isin(self._root, [self._robot, *(self._body(name) for name in skip)])
        return self._boxes(np.flatnonzero(self._solid & ~out))

    def ceiling(
        self, start: Vector, end: Vector, skip: Sequence[str] = (), margin: float = 0.11
    ) -> float:
        """Return the greatest height under a hand of that half width on the straight way."""
        boxes = self.obstacles(skip)
        way = np.linspace(start[:2], end[:2], _SAMPLES)
        points = np.concatenate(
            [
                np.repeat(way[:, None], len(boxes), 1),
                np.tile(boxes.centre[:, 2:], (len(way), 1, 1)),
            ],
            axis=2,
        )
        local = np.einsum("wgi,gij->wgj", points - boxes.centre, boxes.axes)
        below = (np.abs(local) < boxes.half + margin).all(2).any(0)
        return float(boxes.tops()[below].max(initial=-1.0))

    def joint(self, name: str) -> Joint | None:
        """Return the joint of a region, such as a drawer, or the only hinge of a fixture."""
        model = self._model
        region = self._domain.object_sites_dict.get(name)
        names = list(getattr(region, "joints", None) or ())
        if not names and name in self._domain.fixtures_dict:
            names = list(self._domain.fixtures_dict[name].joints)
        if not names:
            return None
        number = model.joint(names[0]).id
        low, high = model.jnt_range[number]
        return Joint(number, int(model.jnt_bodyid[number]), (float(low), float(high)))

    def moved(self, joint: Joint) -> float:
        """Return where a joint is, in metres or radians."""
        return float(self._data.qpos[self._model.jnt_qposadr[joint.number]])

    def axis(self, joint: Joint) -> Vector:
        """Return the direction in which a drawer slides, or about which a door turns."""
        return self._data.xaxis[joint.number].copy()

    def _body(self, name: str) -> int:
        return int(self._domain.obj_body_id[name])

    def _boxes(self, geoms: Int[np.ndarray, " g"]) -> Boxes:
        axes = self._data.geom_xmat[geoms].reshape(-1, 3, 3)
        around = self._model.geom_aabb[geoms]
        centre = self._data.geom_xpos[geoms] + np.einsum("gij,gj->gi", axes, around[:, :3])
        return Boxes(centre, axes.copy(), around[:, 3:].copy())

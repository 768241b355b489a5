"""Where to take hold of an object from above, from the boxes that other things collide with.

No object has numbers of its own. What is narrow enough is taken across its narrowest outline;
bowls, plates and the like are taken at the rim, where the hand has most room, and a lid with a
knob at the knob. Where something hangs over an object, as an open drawer does, a hand from straight
above would come down on that; then the hand leans outwards over the rim and comes in under it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from saccade.sim.libero.experts.motion import about_z
from saccade.sim.libero.experts.world import Boxes, Rotation, Vector, World

WIDEST = 0.072  # metres that the open gripper, 0.08 m, may straddle
TIP = 0.008  # metres: the finger tips reach about so far below the point that is led
DEEPEST = 0.035  # metres below the top of an object
RIM_DEPTH, RIM_INSET = 0.022, 0.004  # metres below a rim, and inwards of it
LEAST_DEPTH = 0.008  # metres below a rim that a grip needs
CROWN = 0.01  # metres below the top: what reaches so high
OFF_MIDDLE = 0.015  # metres: a knob is no farther from the middle of its lid
ALONG = 0.025  # metres: on a rim that is level, the next corner of its crown is no farther
STRETCH = 0.72  # metres from shoulder to wrist, beyond which the elbow gets to its limit
WRIST = 0.2  # metres from the finger tips back to the wrist
ROOM = 0.03  # metres of clearance beyond which more is no better
ANGLES = 36
LEAN = float(np.deg2rad(28))  # of the hand from the vertical, outwards over a rim
FINGER = 0.07  # metres: how far the open hand's finger reaches to a side, and some
WAY = (0.0, 0.04, 0.08, 0.12)  # metres back from a grasp: where the way to it is looked at
TOUCH = 0.001  # metres of clearance that a point of the hand is worth that touches something
BLOCKED = 0.002  # metres of clearance on the way, below which the hand cannot come down


@dataclass(frozen=True)
class Grasp:
    """Where the hand goes, the direction along which its fingers close, and how far it leans."""

    position: Vector
    angle: float
    rim: bool = False
    lean: float = 0.0

    @property
    def axes(self) -> Rotation:
        """The direction along which the fingers close, the one across, and the one to withdraw."""
        cos, sin = np.cos(self.lean), np.sin(self.lean)
        return about_z(self.angle) @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def plan(world: World, name: str, failed: Sequence[Grasp] = ()) -> Grasp:
    """Choose a grasp; rims keep away from grasps that ``failed``.

    At a rim the hand is upright where it can come down so; where not, it leans if that has room.
    """
    boxes = world.solid(name)
    points, tops = boxes.corners(), boxes.tops()
    top, bottom = points[:, 2].max(), points[:, 2].min()
    width, angle, middle = narrowest(points)
    if width < WIDEST:
        return Grasp(np.append(middle, max(bottom + TIP, top - DEEPEST)), angle)
    crown = tops > top - CROWN
    outline = (points[:, :2].max(0) + points[:, :2].min(0)) / 2
    width, angle, middle = narrowest(boxes.some(crown).corners())
    # A knob stands in the middle of its lid; of a tilted bowl, the high side of the rim does not.
    if width < WIDEST and np.linalg.norm(middle - outline) < OFF_MIDDLE:
        below = tops[~crown].max()
        return Grasp(np.append(middle, max(below + TIP, top - DEEPEST)), angle)
    others = world.obstacles((name,))

    def above(grasp: Grasp) -> float:  # where no place is free, how much is in the way counts
        return clearance(grasp, others) - TOUCH * touching(grasp, others)

    upright = _at_best_rim(world, points, failed, above)
    if min(way_clearance(upright, others)[1:]) > BLOCKED:
        return upright

    def room(grasp: Grasp) -> float:  # on average: the hand may well brush against one thing
        return float(np.minimum(way_clearance(grasp, others), ROOM).mean())

    return max(upright, _at_best_rim(world, points, failed, room, LEAN), key=room)


def renew(world: World, name: str, grasp: Grasp) -> Grasp:
    """Plan the same grasp again: objects settle and are pushed while the hand comes."""
    if grasp.rim:
        return at_rim(world.solid(name).corners(), grasp.angle, grasp.lean)
    return plan(world, name)


def at_rim(points: Float64[np.ndarray, "c 3"], angle: float, lean: float = 0.0) -> Grasp:
    """Return the grasp at the rim of something round, with the fingers inside and outside."""
    top, bottom = points[:, 2].max(), points[:, 2].min()
    centre = (points[:, :2].max(0) + points[:, :2].min(0)) / 2
    rim = points[points[:, 2] > top - 0.01, :2]
    radius = np.linalg.norm(rim - centre, axis=1).max() - RIM_INSET
    # The outer finger of a hand that leans is the lower one.
    room = top - bottom - TIP + 0.002 - FINGER * np.sin(lean)
    depth = float(np.clip(room, LEAST_DEPTH, RIM_DEPTH))
    place = centre + radius * np.array([np.cos(angle), np.sin(angle)])
    return Grasp(np.append(place, top - depth), float(angle), rim=True, lean=lean)


def narrowest(
    points: Float64[np.ndarray, "c 3"],
) -> tuple[float, float, Float64[np.ndarray, "2"]]:
    """Return the least width of an outline from above, its direction, and the middle."""
    angles = np.linspace(0, np.pi, ANGLES, endpoint=False)
    along = points[:, :2] @ np.stack([np.cos(angles), np.sin(angles)])
    best = int(np.argmin(np.ptp(along, axis=0)))
    angle = float(angles[best])
    frame = about_z(angle)[:2, :2]
    turned = points[:, :2] @ frame
    middle = frame @ (turned.max(0) + turned.min(0)) / 2
    return float(np.ptp(turned[:, 0])), angle, middle


def clearance(grasp: Grasp, others: Boxes, back: float = 0.0) -> float:
    """Return how far the open hand, so far ``back`` from a grasp, is from everything else."""
    axes = grasp.axes
    points = _HAND @ axes.T + grasp.position + back * axes[:, 2]
    return float(others.distance(points).min(initial=np.inf))


def touching(grasp: Grasp, others: Boxes) -> int:
    """Return how many points of the open hand touch something else on its way to a grasp."""
    axes = grasp.axes
    points = [_HAND @ axes.T + grasp.position + back * axes[:, 2] for back in WAY]
    return int((others.distance(np.concatenate(points)) < BLOCKED).sum())


def way_clearance(grasp: Grasp, others: Boxes) -> list[float]:
    """Return how far the open hand is from everything else along its way to a grasp."""
    return [clearance(grasp, others, back) for back in WAY]


def _at_best_rim(
    world: World,
    points: Float64[np.ndarray, "c 3"],
    failed: Sequence[Grasp],
    room: Callable[[Grasp], float],
    lean: float = 0.0,
) -> Grasp:
    axes = world.hand()[1]
    now = np.arctan2(axes[1, 0], axes[0, 0])
    best, most = None, -np.inf
    for angle in np.linspace(-np.pi, np.pi, 24, endpoint=False):
        grasp = at_rim(points, angle, lean)
        turn = abs((angle - now + np.pi / 2) % np.pi - np.pi / 2)
        score = min(room(grasp), ROOM) - 0.0015 * turn
        score -= 0.02 * any(_apart(angle, other.angle) < 0.6 for other in failed)
        score -= max(0.0, to_crown(grasp, points) - ALONG)
        score -= max(0.0, _stretch(grasp, world) - STRETCH)
        if score > most:
            best, most = grasp, score
    assert best is not None
    return best


def to_crown(grasp: Grasp, points: Float64[np.ndarray, "c 3"]) -> float:
    """Return how far a grasp is from what is highest: the low side of a tilted rim is far."""
    crown = points[points[:, 2] > points[:, 2].max() - CROWN, :2]
    return float(np.linalg.norm(crown - grasp.position[:2], axis=1).min())


def _stretch(grasp: Grasp, world: World) -> float:
    """Return how far the arm has to reach for a grasp, from its shoulder to its wrist."""
    wrist = grasp.position + WRIST * grasp.axes[:, 2]
    return float(np.linalg.norm(wrist - world.shoulder()))


def _apart(one: float, other: float) -> float:
    return abs((one - other + np.pi) % (2 * np.pi) - np.pi)


def _hand() -> Float64[np.ndarray, "n 3"]:
    """Return points all over an open hand: palm, wrist and two fingers; x closes, z is up."""
    points = []
    for middle, wide, deep, low, high in (
        (0.0, 0.10, 0.03, 0.05, 0.12),
        (0.0, 0.06, 0.055, 0.12, 0.30),
        (0.048, 0.012, 0.012, -0.008, 0.06),
        (-0.048, 0.012, 0.012, -0.008, 0.06),
    ):
        xs = middle + np.linspace(-wide, wide, 9 if wide > 0.05 else 3)
        axes = np.meshgrid(xs, (-deep, 0.0, deep), np.linspace(low, high, 4), indexing="ij")
        points.append(np.stack(axes, -1).reshape(-1, 3))
    return np.concatenate(points)


_HAND = _hand()

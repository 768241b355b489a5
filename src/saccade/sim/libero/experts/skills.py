"""Picking up and putting down."""

from collections.abc import Generator

import numpy as np

from saccade.sim.libero.experts.grasping import Grasp, plan, renew
from saccade.sim.libero.experts.motion import CLOSED, OPEN, UP, Action, Hand, Moves
from saccade.sim.libero.experts.world import Rotation, Vector

TRIES = 3  # grasps, each elsewhere
HOVER = 0.10  # metres back from a grasp
LIFT = 0.06  # metres
DRAW_OUT = 0.16  # the same for a hand that leans, until the object is out from under the rest


def put(hand: Hand, name: str, place: str, aside: Vector | None = None) -> Moves:
    """Take an object and put it on or into something, with its origin above the place's.

    ``aside`` keeps it away from the middle.
    """
    world, skip = hand.world, (name,)
    rotation = yield from take(hand, name)
    target, here = world.place(place), hand.position
    target = target if aside is None else target + aside
    hang = here[2] - world.solid(name).corners()[:, 2].min()
    holder = place.split("_contain_region")[0]
    if holder != place and holder.startswith("basket"):
        rim = world.solid(holder).corners()[:, 2].max()
        yield from release(hand, name, rotation, target, rim + 0.05 + hang, rim - 0.03)
        return
    support = world.ceiling(target, target, skip, 0.0)
    clear = max(support + 0.08, world.ceiling(here, target, skip, 0.09) + 0.03) + hang
    yield from release(hand, name, rotation, target, clear, support + 0.005)


def take(hand: Hand, name: str) -> Generator[Action, None, Rotation]:
    """Grasp and lift an object, elsewhere where a grasp failed; return how the hand is turned."""
    failed: list[Grasp] = []
    rotation = hand.rotation
    for _ in range(TRIES):
        grasp = plan(hand.world, name, failed)
        rotation = yield from pick(hand, name, grasp)
        lifted = hand.position + (DRAW_OUT if grasp.lean else LIFT) * grasp.axes[:, 2]
        yield from hand.go(lifted, rotation, CLOSED, within=0.02, steps=12)
        if hand.world.held(name):
            break
        failed.append(grasp)
        yield from hand.hold(rotation, OPEN, 4)
    return rotation


def pick(hand: Hand, name: str, grasp: Grasp) -> Generator[Action, None, Rotation]:
    """Go above an object, down, and close the fingers."""
    here, place, back = hand.position, grasp.position, grasp.axes[:, 2]
    rotation = hand.pointing(-back, grasp.axes[:, 0])
    top = hand.world.solid(name).corners()[:, 2].max()
    before = place + max(HOVER, top + 0.05 - place[2]) * back
    hover = before[2]
    way = max(hover, hand.world.ceiling(here, before, (name,)) + 0.03)
    if here[2] < way - 0.03:
        yield from hand.go(at(here, way), rotation, OPEN, within=0.03)
    over = max(way, min(here[2], hover + 0.1))
    yield from hand.go(at(before, over), rotation, OPEN, within=0.03)
    yield from hand.go(before, rotation, OPEN, within=0.010)
    place = renew(hand.world, name, grasp).position
    yield from hand.go(place, rotation, OPEN, within=0.012, steps=30, limit=0.7)
    yield from hand.go(place, rotation, OPEN, within=0.003, steps=8, limit=0.4, gain=1.5)
    yield from hand.hold(rotation, CLOSED, 9, place)
    return rotation


def release(
    hand: Hand, name: str, rotation: Rotation, target: Vector, clear: float, bottom: float
) -> Moves:
    """Carry at the height ``clear``, lower the object's lowest point to ``bottom``, let go."""
    world = hand.world
    yield from hand.go(at(hand.position, clear), rotation, CLOSED, within=0.02, steps=40)
    for within in (0.03, 0.012, 0.012):  # the object slips a little in the fingers
        over = target + hand.position - world.origin(name)
        yield from hand.go(at(over, clear), rotation, CLOSED, within=within, steps=50, limit=0.8)
    hang = hand.position[2] - world.solid(name).corners()[:, 2].min()
    over = target + hand.position - world.origin(name)
    yield from hand.go(at(over, bottom + hang), rotation, CLOSED, steps=40, limit=0.6)
    yield from hand.hold(rotation, OPEN, 8)
    yield from hand.go(hand.position + 0.08 * UP, rotation, OPEN, within=0.02, steps=20)
    yield from hand.hold(rotation, OPEN, 10)


def at(place: Vector, height: float) -> Vector:
    """Return a place at another height."""
    return np.array([place[0], place[1], height])

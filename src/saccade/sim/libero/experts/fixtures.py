"""Drawers, doors and knobs; and a flat dish, which is pushed."""

import numpy as np

from saccade.errors import ConfigError
from saccade.sim.libero.experts.grasping import TIP, narrowest
from saccade.sim.libero.experts.motion import CLOSED, DOWN, OPEN, UP, Hand, Moves, about_z
from saccade.sim.libero.experts.skills import at
from saccade.sim.libero.experts.world import Joint, Vector

TILT = np.deg2rad(80)  # of the hand from the vertical, so that the fingers straddle a handle
LEAN = np.deg2rad(50)  # the same for a hand that pushes a drawer shut
LEAD = 0.04  # metres that the commanded place is ahead of the hand when it pulls
ENOUGH = 0.98  # of a drawer's way
PRESS = 0.006  # metres below the bottom of a dish


def open_drawer(hand: Hand, name: str) -> Moves:
    """Straddle the handle of a drawer from the front, and pull."""
    world, joint = hand.world, _joint(hand, name)
    out, far = outwards(hand, joint)
    boxes = world.part(joint)
    bar = boxes.centre[np.argmax(boxes.centre @ out)]
    way = np.sin(TILT) * -out + np.cos(TILT) * DOWN
    rotation = hand.pointing(way, np.sin(TILT) * UP - np.cos(TILT) * out)
    before, here = bar - 0.09 * way + 0.02 * out, hand.position
    yield from hand.go(at(here, max(here[2], before[2] + 0.05)), None, OPEN, 0.03, steps=15)
    yield from hand.go(before + 0.04 * UP, rotation, OPEN, 0.03, steps=50)
    yield from hand.go(before, rotation, OPEN, 0.012, steps=40)
    yield from hand.go(bar + 0.002 * out, rotation, OPEN, 0.006, steps=40, limit=0.6)
    yield from hand.hold(rotation, CLOSED, 8, bar)
    start = hand.position
    for _ in range(70):
        if abs(world.moved(joint)) > ENOUGH * far:
            break
        hand.rest()
        ahead = (hand.position - start) @ out + LEAD
        yield hand.towards(start + ahead * out, rotation, CLOSED)
    end = hand.position
    yield from hand.hold(rotation, OPEN, 6)
    yield from hand.go(end - 0.08 * way, rotation, OPEN, 0.02, steps=15)
    yield from hand.go(end - 0.08 * way + 0.12 * UP, None, OPEN, 0.03, steps=20)


def close_drawer(hand: Hand, name: str) -> Moves:
    """Push the front of a drawer with closed fingers."""
    world, joint = hand.world, _joint(hand, name)
    out, _ = outwards(hand, joint)
    boxes, here = world.part(joint), hand.position
    bar = boxes.centre[np.argmax(boxes.centre @ out)]
    # Leaning back, so that the palm stays out of the handles above.
    way = np.sin(LEAN) * -out + np.cos(LEAN) * DOWN
    rotation = hand.pointing(way, np.cross(UP, out))
    start = bar + 0.07 * out
    over = max(bar[2] + 0.10, world.ceiling(here, start) + 0.05)
    yield from hand.go(at(here, over), rotation, CLOSED, 0.03, steps=25)
    yield from hand.go(at(start, over), rotation, CLOSED, 0.03)
    yield from hand.go(start, rotation, CLOSED, 0.012, steps=40)
    start = hand.position
    for _ in range(80):
        if world.holds(("close", name)):
            break
        hand.rest()
        ahead = (hand.position - start) @ out - LEAD
        yield hand.towards(start + ahead * out, rotation, CLOSED)
    yield from hand.go(hand.position + 0.08 * out, rotation, CLOSED, 0.02, steps=15)


def outwards(hand: Hand, joint: Joint) -> tuple[Vector, float]:
    """Return the direction in which a drawer opens, and how far."""
    sign = -1.0 if abs(joint.span[0]) > abs(joint.span[1]) else 1.0
    out = sign * hand.world.axis(joint)
    return out / np.linalg.norm(out), max(abs(joint.span[0]), abs(joint.span[1]))


def turn_on(hand: Hand, name: str) -> Moves:
    """Grip the bar of a knob from above and turn it to the left."""
    world, joint = hand.world, _joint(hand, name)
    boxes = world.part(joint)
    top = boxes.tops().max()
    bar = boxes.some(boxes.tops() > top - 0.012).corners()
    _, angle, _ = narrowest(bar)
    centre = (bar.max(0) + bar.min(0)) / 2
    grip = at(centre, top - 0.018)
    rotation = hand.facing_down(angle)
    way = max(top + 0.10, world.ceiling(hand.position, grip) + 0.03)
    yield from hand.go(at(centre, way), rotation, OPEN, 0.03)
    yield from hand.go(at(centre, top + 0.05), rotation, OPEN, 0.012)
    yield from hand.go(grip, rotation, OPEN, 0.006, steps=40, limit=0.6)
    yield from hand.hold(rotation, CLOSED, 8, grip)
    for step in range(1, 60):
        if world.holds(("turnon", name)):
            break
        yield hand.towards(grip, about_z(min(0.05 * step, 1.3)) @ rotation, CLOSED)
    yield from hand.hold(None, OPEN, 6)
    yield from hand.go(hand.position + 0.10 * UP, None, OPEN, 0.02, steps=20)


def push(hand: Hand, name: str, place: str) -> Moves:
    """Slide a flat dish: the closed fingers in it press against the leading rim."""
    world, target = hand.world, hand.world.place(place)[:2]
    points = world.solid(name).corners()
    height = points[:, 2].min() + TIP + 0.004
    radius = 0.55 * np.ptp(points[:, 0]) / 2
    way = target - world.origin(name)[:2]
    way /= np.linalg.norm(way)
    here = hand.position
    rotation = hand.facing_down(float(np.arctan2(way[1], way[0]) + np.pi / 2))
    start = np.append(world.origin(name)[:2] + radius * way, height)
    over = max(height + 0.06, world.ceiling(here, start, (name,)) + 0.05)
    yield from hand.go(at(here, over), rotation, CLOSED, 0.03, steps=15)
    yield from hand.go(start + 0.08 * UP, rotation, CLOSED, 0.02)
    yield from hand.go(start, rotation, CLOSED, 0.006, steps=30, limit=0.6)
    for _ in range(90):
        here, dish = hand.position, world.origin(name)
        climbed = np.linalg.norm(here[:2] - dish[:2]) > radius + 0.03
        if climbed or world.holds(("on", name, place)):
            break
        hand.rest()
        way = (target - dish[:2]) / max(float(np.linalg.norm(target - dish[:2])), 1e-3)
        yield hand.towards(np.append(here[:2] + 0.026 * way, height - PRESS), rotation, CLOSED)
    yield from hand.go(hand.position + 0.05 * UP, rotation, CLOSED, 0.02, steps=15)


def _joint(hand: Hand, name: str) -> Joint:
    joint = hand.world.joint(name)
    if joint is None:
        raise ConfigError(f"the expert knows no joint of {name}; leave this task out")
    return joint

from dataclasses import replace
from typing import Any

import pytest

from saccade.errors import ConfigError
from saccade.evals.landscape import Grid
from saccade.experiments.energy_grids import GridsConfig
from tests.evals.toy_arm import FRANKA, SAWYER


def axes(grids: tuple[Grid, ...]) -> list[tuple[str, ...]]:
    return [one.names for one in grids]


def test_the_default_is_the_official_grid_with_slices_and_sweeps() -> None:
    found = GridsConfig().resolve(FRANKA)
    assert found.main == Grid()
    assert [factor for factor, _ in found.widened] == [2, 4]
    assert found.widened[1][1].half_width == (0.3, 0.3, 0.3)
    assert axes(found.slices) == [("x", "z"), ("x", "y"), ("yaw", "gripper")]
    assert axes(found.sweeps) == [(name,) for name in FRANKA]
    assert {one.others for one in found.slices + found.sweeps} == {"truth"}
    assert found.slices[2].half_width == (0.15, 0.75)
    assert len(found.every) == 1 + 2 + 3 + 7
    assert found.evaluations(2) == 2 + 3 * 126 + 3 * 122 + 7 * 12 + 2 * 128


@pytest.mark.parametrize(
    ("names", "main", "slices"),
    [
        (SAWYER, ("x", "y", "z"), [("x", "z"), ("x", "y"), ("z", "gripper")]),
        (("x", "y"), ("x", "y"), [("x", "y")]),
        (("z", "gripper"), ("z",), [("z", "gripper")]),
        (("z", "speed"), ("z",), []),
    ],
)
def test_defaults_are_of_axes_that_the_model_has(
    names: tuple[str, ...], main: tuple[str, ...], slices: list[tuple[str, ...]]
) -> None:
    found = GridsConfig().resolve(names)
    assert found.main.names == main
    assert axes(found.slices) == slices
    assert ("speed",) not in axes(found.sweeps)  # of no known unit


def test_what_is_asked_for_is_what_is_made() -> None:
    asked = GridsConfig(
        axes=("x", "yaw"), half_width=(0.1, 0.5), steps=(3, 7), slices=(("yaw", "x"),), widen=(1.0,)
    )
    found = asked.resolve(FRANKA)
    assert found.main == Grid(names=("x", "yaw"), half_width=(0.1, 0.5), steps=(3, 7))
    assert not found.widened
    assert found.slices[0].half_width == (0.5, 0.1)  # as far as the main grid
    assert not replace(asked, slices=(), sweep_steps=0).resolve(FRANKA).every[1:]
    only = GridsConfig(axes=("speed",), half_width=(2.0,)).resolve(("speed", "x"))
    assert axes(only.sweeps) == [("speed",), ("x",)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"axes": ("x", "w"), "half_width": (0.1,)}, r"the grid varies \['w'\]"),
        ({"axes": ("x", "w")}, r"axes \['w'\] are of no known unit"),
        ({"half_width": (0.1, 0.2)}, "a half-width and steps for each"),
        ({"steps": (1,)}, "at least 2 steps"),
        ({"slices": (("x",),)}, "two different axes, not 'x'"),
        ({"slices": (("x", "x"),)}, "two different axes"),
        ({"slices": (("x", "w"),)}, r"axes \['w'\] of a slice are of no known unit"),
        ({"slices": (("x", "rx"),)}, r"the grid varies \['rx'\]"),
        ({"widen": (1.0, 1.0)}, "different factors"),
        ({"widen": (0.0,)}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        GridsConfig(**settings).resolve(FRANKA)


def test_a_model_without_positions_needs_axes() -> None:
    with pytest.raises(ConfigError, match="have no position"):
        GridsConfig().resolve(("yaw", "gripper"))
    assert GridsConfig(axes=("yaw",)).resolve(("yaw", "gripper")).main.half_width == (0.15,)

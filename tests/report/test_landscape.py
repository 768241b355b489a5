import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade.errors import ConfigError, DataError
from saccade.evals.landscape import Grid, Landscape, grid
from saccade.report import landscape as figures
from tests.evals.toy_arm import FRANKA
from tests.fixtures.vjepa2 import landscape as official

TRUTH = np.array([0.05, -0.02, 0.2, 0.1, 0, 0, 0])


def made(where: Grid, seed: int = 0, **changes: Any) -> Landscape:
    energy = np.random.default_rng(seed).uniform(0.4, 0.6, where.steps)
    numbers = dict.fromkeys(("at_truth", "at_projection", "at_zero", "no_change"), 0.5)
    place = {"episode": 3, "start": 0, "names": FRANKA, "truth": TRUTH, "horizon": 1}
    return Landscape(
        **{"grid": where, "metric": "l1", "energy": energy, **place, **numbers, **changes}
    )


def blank(projection: str | None = None) -> Axes:
    return Figure().add_subplot(projection=projection)


def marks(axes: Axes) -> dict[str, tuple[float, ...]]:
    """Where each marked line starts, in the units of the data."""
    lines = {str(line.get_gid()): line for line in axes.lines if line.get_gid()}
    return {
        name: tuple(float(np.asarray(data).flat[0]) for data in line.get_data())
        for name, line in lines.items()
    }


def test_a_plane_takes_the_lowest_along_the_rest() -> None:
    one = made(grid(("x", "y", "z"), 0.1, (3, 4, 5)))
    found = figures.plane(one, ("z", "x"))
    assert found.energy.shape == (5, 3)
    assert found.energy[4, 2] == one.energy[2, :, 4].min()
    assert found.truth == (0.2, 0.05)
    assert not found.inside
    assert found.nearest == (0.1, 0.05)
    z, x = found.lowest
    index = np.unravel_index(one.energy.argmin(), one.energy.shape)
    assert (x, z) == (one.grid.values[0][index[0]], one.grid.values[2][index[2]])
    assert figures.plane(one).names == ("x", "y")


@pytest.mark.parametrize("names", [("x", "yaw"), ("x", "x")])
def test_a_plane_is_of_the_axes_of_its_grid(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="the grid varies"):
        figures.plane(made(grid()), names)
    with pytest.raises(ConfigError, match="draw a sweep"):
        figures.plane(made(grid(("x",))))


def test_marks_of_a_heat_map_are_where_the_numbers_are() -> None:
    one, axes = made(grid(("x", "y"), 0.1, 5)), blank()
    one.energy[1, 4] = 0.1
    figures.paint_heat_map(axes, figures.plane(one), "heat", (0.0, 1.0))
    assert marks(axes) == {"truth": (0.05, -0.02), "lowest": (-0.05, 0.1)}
    (image,) = axes.images
    assert image.get_clim() == (0, 1)
    np.testing.assert_allclose(image.get_extent(), [-0.125, 0.125, -0.125, 0.125])
    assert image.origin == "lower"
    assert np.asarray(image.get_array())[4, 1] == 0.1  # rows upwards, columns across
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Δx (m)", "Δy (m)")


def test_a_truth_outside_is_a_hollow_star_at_the_border() -> None:
    one, axes = made(grid(("z", "roll"), 0.1, 5)), blank()
    figures.paint_heat_map(axes, figures.plane(one), "heat")
    assert marks(axes)["truth"] == (0.1, 0.1)
    (star,) = (line for line in axes.lines if line.get_gid() == "truth")
    assert star.get_markerfacecolor() == "none"
    assert "truth at (0.200, 0.100), outside of the grid" in figures.heat_map(one, "heat")
    assert axes.get_aspect() == "auto"  # metres and radians


def test_the_notebooks_plot_is_its_histogram() -> None:
    one, axes = made(grid()), blank()
    drawn = figures.notebook_plane(one)
    cells = one.grid.cells.astype(np.float32)
    heat, across, upwards = np.histogram2d(
        cells[:, 0], cells[:, 2], weights=one.energy.ravel(), bins=5
    )
    np.testing.assert_allclose(drawn.energy, heat)
    figures.paint_notebook_plot(axes, drawn, "Energy Landscape")
    (image,) = axes.images
    extent = [across[0], across[-1], upwards[0], upwards[-1]]
    np.testing.assert_allclose(image.get_extent(), extent, atol=1e-8)
    np.testing.assert_allclose(np.asarray(image.get_array()), heat.T)
    assert image.origin == "lower"
    assert not marks(axes)
    assert "summed" in figures.notebook_plot(one)
    with pytest.raises(ConfigError, match="draw a heat map"):
        figures.notebook_plot(made(grid(("x", "y"))))


def test_the_notebooks_plot_is_the_official_one() -> None:
    numbers = official.stored()
    one = made(grid(), energy=numbers["1/energy"].astype(np.float64).reshape(5, 5, 5))
    axes = blank()
    figures.paint_notebook_plot(axes, figures.notebook_plane(one), "Energy Landscape")
    (image,) = axes.images
    np.testing.assert_allclose(np.asarray(image.get_array()), numbers["1/heat"].T, rtol=1e-6)
    extent = [*numbers["1/across"][[0, -1]], *numbers["1/upwards"][[0, -1]]]
    np.testing.assert_allclose(image.get_extent(), extent, atol=1e-8)


def test_a_surface_has_a_post_and_a_point() -> None:
    one, axes = made(grid(("x", "y"), 0.1, 5)), blank("3d")
    figures.paint_surface(axes, figures.plane(one), "surface")
    post, point = cast(list[Any], axes.lines)
    low, high = one.energy.min(), one.energy.max()
    np.testing.assert_allclose(post.get_data_3d(), [[0.05] * 2, [-0.02] * 2, [low, high]])
    lowest = figures.plane(one).lowest
    np.testing.assert_allclose(np.ravel(point.get_data_3d()), [*lowest, low])
    assert "energy over x and y" in figures.surface(one, "surface")


def test_a_sweep_shows_each_models_minimum_and_the_truth() -> None:
    where, axes = grid(("x",), 0.1, 5, "truth"), blank()
    lines = {"base": made(where, 1), "adapter": made(where, 2)}
    figures.paint_sweep(axes, lines, "sweep")
    lowest = [line.get_xydata() for line in axes.lines if line.get_gid() == "lowest"]
    for found, one in zip(lowest, lines.values(), strict=True):
        at = where.values[0][one.energy.argmin()]
        np.testing.assert_allclose(np.asarray(found), [[at, one.energy.min()]])
    assert marks(axes)["truth"][0] == 0.05
    assert "truth at 0.050" in figures.sweep(lines, "sweep")


def test_sweeps_that_do_not_belong_together_are_refused() -> None:
    along, across = made(grid(("x",))), made(grid(("y",)))
    for lines in ({"a": along, "b": across}, {"a": made(grid(("x", "y")))}):
        with pytest.raises(ConfigError, match="along one axis"):
            figures.sweep(lines, "sweep")
    with pytest.raises(DataError, match="one moment"):
        figures.sweep({"a": along, "b": replace(along, truth=TRUTH + 1)}, "sweep")
    with pytest.raises(DataError, match="needs a landscape"):
        figures.sweep({}, "sweep")


def test_curves_have_their_intervals_and_a_floor() -> None:
    axes = blank()
    line = [(0, score(0.05)), (1000, {"value": None, "low": None, "high": None}), (2000, score(1))]
    floor = ("standing still", score(0.08))
    figures.paint_curves(axes, {"lora": line}, "distance", "step", "m", floor)
    drawn, still = axes.lines
    np.testing.assert_array_equal(np.asarray(drawn.get_ydata()), [0.05, np.nan, 1])
    assert np.asarray(still.get_ydata()).tolist() == [0.08, 0.08]
    svg = figures.curves({"lora": line}, "distance", "step", "m", floor)
    assert "lora ends at 1.000 [0.990, 1.010]; standing still is 0.080 [0.070, 0.090]" in svg
    with pytest.raises(DataError, match="no point"):
        figures.curves({"lora": []}, "distance", "step", "m")


def score(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def test_one_scale_for_several() -> None:
    several = [made(grid(("x", "y")), seed) for seed in range(3)]
    energies = np.stack([one.energy for one in several])
    assert figures.limits_of(several) == (energies.min(), energies.max())
    with pytest.raises(DataError, match="no scale"):
        figures.limits_of([])


def test_figures_are_the_same_every_time_and_need_nothing_from_outside() -> None:
    plane, line = made(grid(("x", "yaw"))), made(grid(("x",)))
    point = [(0, score(0.1)), (1, score(0.2))]

    def drawn() -> list[str]:
        return [
            figures.heat_map(plane, "a"),
            figures.surface(plane, "b"),
            figures.notebook_plot(made(grid()), "c"),
            figures.sweep({"model": line}, "d"),
            figures.curves({"model": point}, "e", "step", "m"),
        ]

    first, again = drawn(), drawn()
    assert first == again
    page = "".join(first)
    assert "http" not in page
    assert set(re.findall(r'<image xlink:href="([a-z:/]+);', page)) == {"data:image/png"}
    assert len(page) < 400_000
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_odd_titles_are_text() -> None:
    svg = figures.heat_map(made(grid(("x", "y"))), 'a<b> "$x_1$"')
    assert "<b>" not in svg
    assert "$x_1$" in svg

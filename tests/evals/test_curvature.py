import numpy as np
import pytest

from saccade.evals.curvature import fit_bowl

HESSIAN = np.array([[6.0, 2.0, 0.0], [2.0, 4.0, -1.0], [0.0, -1.0, 3.0]])
AT = np.array([0.011, -0.004, 0.02])
AXES = [np.linspace(-0.1, 0.1, 5), np.linspace(-0.05, 0.05, 5), np.linspace(-0.3, 0.3, 7)]


def quadratic(axes: list[np.ndarray], hessian: np.ndarray, at: np.ndarray) -> np.ndarray:
    apart = np.stack(np.meshgrid(*axes, indexing="ij"), -1) - at
    return 0.4 + np.einsum("...i,ij,...j->...", apart, hessian, apart) / 2


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("reach", [1, 2])
def test_a_quadratic_is_found_exactly(axes: int, reach: int) -> None:
    hessian = HESSIAN[:axes, :axes]
    found = fit_bowl(AXES[:axes], quadratic(AXES[:axes], hessian, AT[:axes]), reach)
    assert found is not None
    np.testing.assert_allclose(found.hessian, hessian, atol=1e-9)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(hessian))
    assert found.minimum is not None
    np.testing.assert_allclose(found.minimum, AT[:axes], atol=1e-12)
    assert found.convex
    assert found.misfit < 1e-10


def test_a_minimum_near_the_border_is_found_with_the_cells_inside() -> None:
    at = np.array([0.095, -0.049])
    found = fit_bowl(AXES[:2], quadratic(AXES[:2], HESSIAN[:2, :2], at))
    assert found is not None
    assert found.minimum is not None
    np.testing.assert_allclose(found.minimum, at, atol=1e-12)


def test_a_minimum_outside_is_not_claimed() -> None:
    found = fit_bowl(AXES[:2], quadratic(AXES[:2], HESSIAN[:2, :2], np.array([0.14, 0.0])))
    assert found is not None
    assert found.minimum is None
    assert found.convex


@pytest.mark.parametrize(
    ("hessian", "convex"), [(np.diag([2.0, -1.0]), False), (-HESSIAN[:2, :2], False)]
)
def test_saddles_and_hills_have_no_minimum(hessian: np.ndarray, convex: bool) -> None:
    found = fit_bowl(AXES[:2], quadratic(AXES[:2], hessian, np.zeros(2)))
    assert found is not None
    assert found.minimum is None
    assert found.convex is convex


def test_a_flat_landscape_has_no_minimum() -> None:
    found = fit_bowl(AXES[:2], np.full((5, 5), 0.7))
    assert found is not None
    assert found.minimum is None
    assert (found.misfit, found.convex) == (0, False)


def test_a_kink_leaves_a_misfit() -> None:
    found = fit_bowl([np.linspace(-1, 1, 5)], np.abs(np.linspace(-1, 1, 5)), reach=2)
    assert found is not None
    # |u| at -2..2 halves: the best parabola is 0.0857 + 0.2143 u^2 (times 1), by normal equations
    units = np.arange(-2, 3)
    rest = np.abs(units) / 2 - np.polyval([1.5 / 14 * 2, 0, 0.6 - 2 * 1.5 / 14 * 2], units)
    assert found.misfit == pytest.approx(np.sqrt((rest**2).mean()), rel=1e-6)


def test_two_values_bear_no_curvature() -> None:
    assert fit_bowl([np.array([-1.0, 1.0]), AXES[1]], np.zeros((2, 5))) is None

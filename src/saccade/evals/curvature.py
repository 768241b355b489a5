"""The shape of a landscape around its lowest cell: a quadratic, fitted by least squares."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

NEEDED = 3  # values along each axis


class Bowl(NamedTuple):
    """A quadratic ``c + g.v + v.H.v / 2`` around a cell.

    ``hessian`` is in energy per product of the axes' units; its eigenvalues (ascending) are all
    positive where the landscape is convex, whatever the units, but compare in size only along
    axes of one unit. ``minimum`` is the quadratic's, in the axes' units; None where it is not
    convex, or where it lies outside the cells of the fit. ``misfit`` is the root mean square of
    what the quadratic leaves, as a share of the range of energies that it was fitted to.
    """

    hessian: Float64[np.ndarray, "d d"]
    eigenvalues: Float64[np.ndarray, " d"]
    minimum: Float64[np.ndarray, " d"] | None
    misfit: float

    @property
    def convex(self) -> bool:
        """Tell whether it opens upwards in every direction."""
        return bool(self.eigenvalues[0] > 0)


def fit_bowl(
    values: Sequence[Float64[np.ndarray, " _"]],
    energy: Float64[np.ndarray, "*grid"],
    reach: int = 1,
) -> Bowl | None:
    """Fit the cells within ``reach`` of the lowest one; at a border they are shifted inwards.

    Args:
        values: along each axis, equally spaced and increasing.
        energy: of each cell.
        reach: cells to each side; 1 fits 3 x 3 of a plane.

    Returns:
        None where an axis has fewer than three values.
    """
    if min(energy.shape) < NEEDED:
        return None
    lowest = np.unravel_index(int(energy.argmin()), energy.shape)
    windows = [_window(int(at), size, reach) for at, size in zip(lowest, energy.shape, strict=True)]
    near = energy[tuple(windows)].ravel()
    axes = [axis[window] for axis, window in zip(values, windows, strict=True)]
    middle = np.array([(axis[0] + axis[-1]) / 2 for axis in axes])
    spacing = np.array([axis[1] - axis[0] for axis in axes])
    units = [(axis - m) / s for axis, m, s in zip(axes, middle, spacing, strict=True)]
    cells = np.stack([part.ravel() for part in np.meshgrid(*units, indexing="ij")], 1)
    first, second = np.triu_indices(len(axes))
    design = np.column_stack([np.ones(len(near)), cells, cells[:, first] * cells[:, second]])
    level = near - near.min()  # what energies have in common would cost digits
    solved = np.linalg.lstsq(design, level, rcond=None)[0]
    slope, square = solved[1 : len(axes) + 1], solved[len(axes) + 1 :]
    bent = np.zeros((len(axes), len(axes)))
    bent[first, second] = square
    bent = bent + bent.T  # d2/du2 of a u^2 is 2 a, d2/du dw of a u w is a
    hessian = bent / np.outer(spacing, spacing)
    spread = float(level.max())
    misfit = float(np.sqrt(np.mean((design @ solved - level) ** 2)))
    return Bowl(
        hessian,
        np.linalg.eigvalsh(hessian),
        _minimum(bent, slope, cells, middle, spacing),
        misfit / spread if spread else 0.0,
    )


def _window(at: int, size: int, reach: int) -> slice:
    """Return ``2 reach + 1`` places around one, or all if there are fewer."""
    width = min(2 * reach + 1, size)
    start = min(max(at - reach, 0), size - width)
    return slice(start, start + width)


def _minimum(
    bent: Float64[np.ndarray, "d d"],
    slope: Float64[np.ndarray, " d"],
    cells: Float64[np.ndarray, "m d"],
    middle: Float64[np.ndarray, " d"],
    spacing: Float64[np.ndarray, " d"],
) -> Float64[np.ndarray, " d"] | None:
    """Return where a convex quadratic is lowest, if that is among its cells."""
    if np.linalg.eigvalsh(bent)[0] <= 1e-12 * np.abs(bent).max():
        return None
    place = np.linalg.solve(bent, -slope)
    if (np.abs(place) > np.abs(cells).max(0) + 1e-9).any():
        return None
    return middle + place * spacing

"""The images that a gradient's row space holds, as coordinates in a small plane."""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import singular
from attack.images.row_space import RowSpace
from attack.simplex import simplex, solved

Array64 = npt.NDArray[np.float64]

_FAR = 1e4


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePlane:
    """``x(z) = origin + z axes``: the vectors of the row space whose bias entry is 1.

    Attributes:
        origin: `[inputs]`, in the units that the first layer saw.
        axes: `[rank - 1, inputs]`, orthonormal, so that distances in z are distances between images.
    """

    origin: Array64
    axes: Array64

    @property
    def dimension(self) -> int:
        """Number of coordinates: one fewer than the batch has samples."""
        return len(self.axes)

    def inputs(self, z: Array64) -> Array64:
        """Vectors `[N, inputs]` of coordinates `[N, dimension]`."""
        return self.origin + z @ self.axes

    def coordinates(self, inputs: Array64) -> Array64:
        """The nearest point `[dimension]` to a vector `[inputs]`."""
        nearest: Array64 = (inputs - self.origin) @ self.axes.T
        return nearest


def image_plane(space: RowSpace) -> ImagePlane:
    """The plane in the row space of ``[dW | db]``, whose last column is the bias gradient.

    A sample's row is ``(x, 1)``: combinations of rows that are samples have a last entry of 1.
    """
    basis = space.expand(space.basis)
    spend(singular(*basis.shape))
    last = basis[:, -1]
    across = np.linalg.svd(last[None])[2][1:]
    axes = np.linalg.svd((across @ basis)[:, :-1], full_matrices=False)[2] if len(across) else basis[:0, :-1]
    origin = (last @ basis)[:-1] / (last @ last)
    return ImagePlane(origin=origin, axes=axes)


def vertices(plane: ImagePlane, top: float, count: int, rng: np.random.Generator) -> Array64:
    """Vertices of ``{z : 0 <= x(z) <= top}`` in random directions.

    Args:
        plane: Of at least one dimension.
        top: The largest input, which is the encoding's gain.
        count: Directions drawn; those for which the linear program fails are left out.
        rng: Source of directions.

    Returns:
        `[at most count, dimension]`.
    """
    solver = simplex()
    solver.passModel(_box_model(plane, top))
    index = np.arange(plane.dimension, dtype=np.int32)
    found = []
    for _ in range(count):
        solver.changeColsCost(plane.dimension, index, rng.normal(size=plane.dimension))
        if solved(solver):
            found.append(np.array(solver.getSolution().col_value))
    return np.array(found).reshape(len(found), plane.dimension)


def _box_model(plane: ImagePlane, top: float) -> highspy.HighsLp:
    slack = 1e-3 * top
    columns, rows = plane.axes.shape
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns, rows
    model.col_cost_ = np.zeros(columns)
    model.col_lower_, model.col_upper_ = np.full(columns, -_FAR), np.full(columns, _FAR)
    model.row_lower_, model.row_upper_ = -plane.origin - slack, top - plane.origin + slack
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = (np.arange(rows + 1) * columns).astype(np.int32)
    model.a_matrix_.index_ = np.tile(np.arange(columns, dtype=np.int32), rows)
    model.a_matrix_.value_ = plane.axes.T.ravel()
    return model

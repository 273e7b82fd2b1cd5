"""What every codec checks before it reads bytes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from contract.errors import WireError
from contract.frames import MAX_OBJECT_BYTES

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


LARGEST_COUNT = 8 * MAX_OBJECT_BYTES
"""Values of the largest tensor: one bit each, in the largest object."""


def check_shape(shape: tuple[int, ...]) -> None:
    """Holds a shape against what numpy can represent, also where a zero in it makes the tensor empty.

    Raises:
        WireError: Its axes are longer than any object holds.
    """
    count = math.prod(max(axis, 1) for axis in shape)
    if count > LARGEST_COUNT:
        raise WireError(f"shape {shape}: {count} values, an object holds at most {LARGEST_COUNT}")


def check_size(data: memoryview, shape: tuple[int, ...], itemsize: int) -> None:
    """Holds the number of bytes against the shape.

    Raises:
        WireError: They differ.
    """
    expected = math.prod(shape) * itemsize
    if data.nbytes != expected:
        raise WireError(f"{data.nbytes} bytes for shape {shape}: {expected} are needed at {itemsize} bytes a value")


def check_length(data: memoryview, shape: tuple[int, ...], expected: int) -> None:
    """Holds the number of bytes against what a packed shape needs.

    Raises:
        WireError: They differ.
    """
    if data.nbytes != expected:
        raise WireError(f"{data.nbytes} bytes for shape {shape}: {expected} are needed")


def largest_magnitude(x: npt.NDArray[np.float32], codec: str) -> float:
    """``max|x|``, 0 of nothing.

    Raises:
        WireError: A value that is not finite.
    """
    largest = max(float(x.max(initial=0.0)), -float(x.min(initial=0.0)))
    if not math.isfinite(largest):
        raise WireError(f"{np.count_nonzero(~np.isfinite(x))} values are not finite: {codec} has no code for them")
    return largest


def check_unit_scale(scale: float) -> None:
    """Float codecs have no scale.

    Raises:
        WireError: It is not 1.
    """
    if scale != 1.0:
        raise WireError(f"scale = {scale}: a float codec has scale 1")


def check_step(scale: float, levels: int) -> None:
    """The step of a uniform quantiser with `levels` steps on each side of zero.

    Raises:
        WireError: Not positive and finite, or so large that the outermost level is no float32.
    """
    if not (math.isfinite(scale) and 0 < scale <= LARGEST_FLOAT32 / levels):
        raise WireError(f"scale = {scale}: must be above 0 and at most {LARGEST_FLOAT32 / levels:g}")

"""Event recordings as masks: which of `EVENT_BINS` equal spans of the recording had an event of an input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contract.task import EVENT_BINS

Masks = npt.NDArray[np.uint64]


def event_masks(
    times: npt.NDArray[np.int64], inputs: tuple[npt.NDArray[np.int64], ...], shape: tuple[int, ...]
) -> Masks:
    """Mask of one recording; its own span, first to last event, is cut into `EVENT_BINS` equal parts.

    Args:
        times: Of the events `[E]`, at least one, in any unit of whole numbers.
        inputs: Per axis of `shape` the events' coordinates `[E]`, within it.
        shape: Of the sensor.

    Returns:
        `[*shape]`; bit k of a value is set by an event in the k-th span.
    """
    start, end = times.min(), times.max()
    spans = ((times - start) * EVENT_BINS // (end - start + 1)).astype(np.uint64)
    mask = np.zeros(shape, dtype=np.uint64)
    np.bitwise_or.at(mask, inputs, np.uint64(1) << spans)
    return mask

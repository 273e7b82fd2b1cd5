"""What hidden layers emitted in several passes over batches, as an engine tells it."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

EXACT = 2**24
"""Whole numbers up to this one are exact in float32."""


class Emitted(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Of passes over batches of one size.

    Attributes:
        batch: Samples of each pass.
        passes: How many there were.
        counts: Of each hidden layer how often each neuron emitted a spike over all steps and passes, for each place in
            the batch, `[1, batch * neurons]`, samples before neurons; of a convolution neurons before samples,
            `[1, neurons * batch]`. Of an ANN in how many passes its activation was above 0. Whole numbers, exact.
    """

    batch: int
    passes: int
    counts: tuple[NDArray[np.float32], ...]

"""How far two recordings of the same neurons agree."""

from __future__ import annotations

import msgspec
import numpy as np

from hardware.loihi.cuba import Spikes
from hardware.loihi.errors import ChipError


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Spikes of two recordings.

    Attributes:
        both: Fired by the same neuron at the same step of the same sample in both.
        either: Fired in at least one of them.
        places: Neurons times steps times samples, most of them silent: not what equality is measured by.
    """

    both: int
    either: int
    places: int

    @property
    def equal(self) -> float:
        """Share of the spikes that both have; silence that both have does not count.

        Raises:
            ChipError: Nobody fired: nothing was compared.
        """
        if not self.either:
            raise ChipError("not one spike was fired: nothing was compared; train longer or raise the encoding's gain")
        return self.both / self.either


def agreement(a: tuple[Spikes, ...], b: tuple[Spikes, ...]) -> Agreement:
    """Compares layer by layer.

    Args:
        a: Per layer `[N, T, *outputs]`.
        b: The same layers.

    Raises:
        ChipError: Other layers or shapes.
    """
    if [x.shape for x in a] != [y.shape for y in b]:
        raise ChipError(f"recordings of shapes {[x.shape for x in a]} and {[y.shape for y in b]} cannot be compared")
    pairs = list(zip(a, b, strict=True))
    return Agreement(
        both=sum(int(np.count_nonzero(x.astype(bool) & y.astype(bool))) for x, y in pairs),
        either=sum(int(np.count_nonzero(x.astype(bool) | y.astype(bool))) for x, y in pairs),
        places=sum(x.size for x in a),
    )

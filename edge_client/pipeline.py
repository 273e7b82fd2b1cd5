"""Runs a plan's stages on one update, and keeps account of what the codec lost."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.codecs import Buffer, buffer_view, decode_tensors, encode_tensors
from contract.messages import TensorRecord
from contract.pipeline import Pipeline, Tensors

Parameters = dict[str, NDArray[np.float32]]
Draws = Callable[[str], np.random.Generator]
"""Gives the generator of a purpose: `clip`, `noise`, `codec`."""


class Pressed(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An update ready to be packed.

    Attributes:
        records: As `contract.messages.Update` takes them.
        buffers: The bytes that they describe.
        residual: What the next update must make up for; `None` without error feedback.
    """

    records: tuple[TensorRecord, ...]
    buffers: list[Buffer]
    residual: Parameters | None


def transformed(stages: Pipeline, update: Tensors, draws: Draws) -> Tensors:
    """The update clipped and noised."""
    for stage in stages.transforms:
        update = stage.apply(update, draws(stage.name))
    return update


def press(stages: Pipeline, update: Tensors, residual: Tensors | None, draws: Draws) -> Pressed:
    """Clips, adds noise, adds the residual, and packs.

    Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847): ``p = u + e``, send ``C(p)``, keep
    ``e ← p − C(p)``. Summed up, ``Σ C(p) + e = Σ u``: nothing is lost, it only comes later. u is the clipped and noised
    update. The residual is then a function of noised values and spends no privacy; one of clean values would carry the
    clean update into the next round past its clipping. What is sent may be longer than the clipping bound.

    Args:
        stages: Of the plan.
        update: By parameter name.
        residual: From the update before; `None` is zero.
        draws: Gives the generator of a purpose: `clip`, `noise`, `codec`.

    Raises:
        WireError: Values that the codec cannot represent.
    """
    update = transformed(stages, update, draws)
    if stages.feedback and residual is not None:
        update = {name: tensor + residual[name] for name, tensor in update.items()}
    records, buffers = encode_tensors(stages.codec, update, draws("codec"), compression=stages.compression)
    lost = None
    if stages.feedback:
        sent = decode_tensors(records, [buffer_view(buffer) for buffer in buffers])
        lost = {name: np.asarray(tensor - sent[name], dtype=np.float32) for name, tensor in update.items()}
    return Pressed(records=records, buffers=buffers, residual=lost)

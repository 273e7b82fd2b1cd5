"""How tensors become bytes on the wire. One Protocol, one literal dict; byte layouts are in SPEC.md, "Codecs"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contract.codecs.floats import Fp16, Fp32
from contract.codecs.int4 import Int4
from contract.codecs.int8 import Int8
from contract.codecs.sign import Sign
from contract.codecs.ternary import Ternary
from contract.codecs.topk import TopK
from contract.errors import ConfigurationError, WireError
from contract.messages import TensorRecord

__all__ = ["CODECS", "Codec", "decode_tensors", "encode_tensors", "find_codec"]

Buffer = npt.NDArray[Any] | bytes


class Codec(Protocol):
    """Packs one tensor.

    Attributes:
        name: As it stands in a `TensorRecord`.
        unbiased: Whether the expectation of `decode(encode(x))` over the draws equals `x`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def unbiased(self) -> bool: ...  # noqa: D102

    def encode(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> tuple[Buffer, float]:
        """Buffer and scale of a tensor.

        Raises:
            WireError: The values cannot be represented.
        """
        ...

    def decode(self, data: memoryview, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        """The tensor.

        Raises:
            WireError: Not as many bytes as the shape needs, or an absurd scale.
        """
        ...

    def error_bound(self, x: npt.NDArray[np.float32]) -> float:
        """Largest absolute error of an element of `x` after a round trip."""
        ...


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Fp32(), Fp16(), Int8(), Int4(), Ternary(), Sign(), TopK())}


def find_codec(name: str) -> Codec:
    """A codec by name.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if name not in CODECS:
        raise ConfigurationError(f"codec = {name!r}: known codecs: {', '.join(CODECS)}")
    return CODECS[name]


def encode_tensors(
    codec: str, tensors: Mapping[str, npt.NDArray[Any]], rng: np.random.Generator
) -> tuple[tuple[TensorRecord, ...], list[Buffer]]:
    """Records and buffers of named tensors, in their order, as `contract.messages.pack` takes them.

    Raises:
        ConfigurationError: Unknown codec.
        WireError: A tensor whose values the codec cannot represent; names the tensor.
    """
    packer = find_codec(codec)
    records: list[TensorRecord] = []
    buffers: list[Buffer] = []
    for name, tensor in tensors.items():
        try:
            buffer, scale = packer.encode(np.asarray(tensor, dtype=np.float32), rng)
        except WireError as error:
            raise WireError(f"tensor {name!r}: {error}") from error
        nbytes = buffer.nbytes if isinstance(buffer, np.ndarray) else len(buffer)
        record = TensorRecord(name=name, shape=tuple(tensor.shape), codec=packer.name, nbytes=nbytes, scale=scale)
        records.append(record)
        buffers.append(buffer)
    return tuple(records), buffers


def decode_tensors(records: Sequence[TensorRecord], views: Sequence[memoryview]) -> dict[str, npt.NDArray[np.float32]]:
    """Named tensors from an object's records and views. fp32 tensors are read-only views of the bytes.

    Raises:
        WireError: Unknown codec, a name that comes twice, wrong sizes, or an absurd scale; names the tensor.
    """
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for record, view in zip(records, views, strict=True):
        if record.codec not in CODECS:
            raise WireError(f"tensor {record.name!r}: unknown codec {record.codec!r}; known: {', '.join(CODECS)}")
        if record.name in tensors:
            raise WireError(f"tensor {record.name!r} comes twice")
        try:
            tensors[record.name] = CODECS[record.codec].decode(view, record.shape, record.scale)
        except WireError as error:
            raise WireError(f"tensor {record.name!r}: {error}") from error
    return tensors

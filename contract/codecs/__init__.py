"""How tensors become bytes on the wire. One Protocol, one literal dict; byte layouts are in SPEC.md, "Codecs"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from contract.codecs.deflate import deflated, inflate
from contract.codecs.floats import Fp16, Fp32
from contract.codecs.int4 import Int4
from contract.codecs.int8 import Int8
from contract.codecs.layout import check_shape
from contract.codecs.sign import Sign
from contract.codecs.ternary import Ternary
from contract.codecs.topk import TopK
from contract.errors import ConfigurationError, WireError
from contract.frames import MAX_OBJECT_BYTES
from contract.messages import TensorRecord

__all__ = ["CODECS", "Buffer", "Codec", "buffer_view", "decode_plain", "decode_tensors", "encode_tensors", "find_codec"]

Buffer = npt.NDArray[Any] | bytes


class Codec(Protocol):
    """Packs one tensor.

    Attributes:
        name: As it stands in a `TensorRecord`.
        unbiased: Whether the expectation of `decode(encode(x))` over the draws equals `x`.
        cited: Keys of the works that it follows (`contract.citations`); empty for a mere format of numbers.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def unbiased(self) -> bool: ...  # noqa: D102

    @property
    def cited(self) -> tuple[str, ...]: ...  # noqa: D102

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

    def most_bytes(self, size: int) -> int:
        """Bytes that a tensor of so many values takes at most."""
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
    codec: str | Codec,
    tensors: Mapping[str, npt.NDArray[Any]],
    rng: np.random.Generator,
    *,
    compression: Literal["none", "zlib"] = "none",
) -> tuple[tuple[TensorRecord, ...], list[Buffer]]:
    """Records and buffers of named tensors, in their order, as `contract.messages.pack` takes them.

    Args:
        codec: Name of a codec, or one with settings of its own.
        tensors: By name.
        rng: For the codec's draws.
        compression: `zlib` deflates each buffer that gets smaller by it.

    Raises:
        ConfigurationError: Unknown codec.
        WireError: A tensor whose values the codec cannot represent; names the tensor.
    """
    packer = find_codec(codec) if isinstance(codec, str) else codec
    records: list[TensorRecord] = []
    buffers: list[Buffer] = []
    for name, tensor in tensors.items():
        try:
            buffer, scale = packer.encode(np.asarray(tensor, dtype=np.float32), rng)
        except WireError as error:
            raise WireError(f"tensor {name!r}: {error}") from error
        packed = buffer_view(buffer)
        stream = deflated(packed) if compression == "zlib" else None
        record = TensorRecord(
            name=name,
            shape=tuple(tensor.shape),
            codec=packer.name,
            nbytes=packed.nbytes if stream is None else len(stream),
            scale=scale,
            inflated=0 if stream is None else packed.nbytes,
        )
        records.append(record)
        buffers.append(buffer if stream is None else stream)
    return tuple(records), buffers


def buffer_view(buffer: Buffer) -> memoryview:
    """The bytes of a buffer as `decode_tensors` takes them; nothing is copied."""
    return buffer.reshape(-1).view(np.uint8).data if isinstance(buffer, np.ndarray) else memoryview(buffer)


def decode_tensors(records: Sequence[TensorRecord], views: Sequence[memoryview]) -> dict[str, npt.NDArray[np.float32]]:
    """Named tensors from an object's records and views. fp32 tensors are read-only views of the bytes.

    Raises:
        WireError: Unknown codec, a name that comes twice, wrong sizes, a zlib stream that is damaged or holds more than
            its tensor can need, or an absurd scale; names the tensor.
    """
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    left = MAX_OBJECT_BYTES
    for record, view in zip(records, views, strict=True):
        if record.codec not in CODECS:
            raise WireError(f"tensor {record.name!r}: unknown codec {record.codec!r}; known: {', '.join(CODECS)}")
        if record.name in tensors:
            raise WireError(f"tensor {record.name!r} comes twice")
        codec = CODECS[record.codec]
        try:
            check_shape(record.shape)
            if record.inflated:
                most = min(codec.most_bytes(math.prod(record.shape)), left)
                left -= record.inflated
                view = inflate(view, record.inflated, most)  # noqa: PLW2901
            tensors[record.name] = codec.decode(view, record.shape, record.scale)
        except WireError as error:
            raise WireError(f"tensor {record.name!r}: {error}") from error
    return tensors


def decode_plain(records: Sequence[TensorRecord], views: Sequence[memoryview]) -> dict[str, npt.NDArray[np.float32]]:
    """As `decode_tensors`, of models and images: these are fp32 as it stands, so that nothing grows when it is read.

    Raises:
        WireError: Another codec, or a zlib stream; otherwise as `decode_tensors`.
    """
    for record in records:
        if record.codec != "fp32" or record.inflated:
            packed = f"codec {record.codec!r}{', deflated' if record.inflated else ''}"
            raise WireError(f"tensor {record.name!r}: {packed}: models and images are plain fp32")
    return decode_tensors(records, views)

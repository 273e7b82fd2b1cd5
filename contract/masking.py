"""Arithmetic of secure aggregation: updates as integers modulo 2^32, and the masks that cancel in their sum.

Device u of the devices U that dealt shares sends (Bonawitz et al. 2017, CCS, section 4, semi-honest variant)

    y_u = x_u + PRG(b_u) + Σ_{v in U, u < v} PRG(s_uv) − Σ_{v in U, v < u} PRG(s_uv)      (mod 2^32)

with a seed b_u of its own and a secret s_uv agreed with each other device (X25519). In the sum over all of U the
PRG(s_uv) cancel. Of a device that delivered, shares of b_u are opened; of one that did not, shares of the seed of its
mask key, from which its s_uv follow. Never both: that would bare x_u. PRG is the keystream of ChaCha20 under a key that
HKDF-SHA256 derives; each seed has 128 bits. `cryptography` is needed for all but the integers, and is imported where it
is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from contract.errors import EnvironmentFaultError, WireError
from contract.messages import TensorRecord
from contract.secure import SecureAggregation

Ring = npt.NDArray[np.uint32]
"""Integers modulo 2^32."""

CODEC = "masked"
"""Codec name of masked tensors: four bytes a value, unsigned, little-endian."""
SEED_BYTES = 16
KEY_BYTES = 32
_PACKAGES = {"cryptography": "cryptography", "Crypto": "pycryptodome"}


def missing_extra(package: str) -> EnvironmentFaultError:
    """What to say when a package is not there."""
    return EnvironmentFaultError(
        f"secure aggregation needs the package {package!r}, which is not installed here: "
        "pip install 'spikeleak[secagg]', or take `secure` out of the schedule"
    )


def require_packages() -> None:
    """Checks that secure aggregation can run here.

    Raises:
        EnvironmentFaultError: A package is missing; names the extra that brings it.
    """
    for module, package in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise missing_extra(package)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One opening of one round: masks of another never fit."""

    run: str
    task_hash: str
    round: int
    attempt: int

    def label(self, purpose: str, *names: str) -> bytes:
        """What sets keys for one purpose in this opening apart from all others."""
        return msgspec.json.encode([purpose, self.run, self.task_hash, self.round, self.attempt, *names])


# --- integers -------------------------------------------------------------------------------------------------------


def quantised(
    update: Mapping[str, npt.NDArray[np.float32]], settings: SecureAggregation, rng: np.random.Generator
) -> dict[str, Ring]:
    """Each value clipped to ``± clip`` and rounded at random to a multiple of `step`: ``floor(x / step + u)``.

    Args:
        update: By parameter name.
        settings: Clip and bits.
        rng: Draws u, uniform in [0, 1).

    Raises:
        WireError: A value that is not finite.
    """
    integers: dict[str, Ring] = {}
    for name, tensor in update.items():
        if not np.isfinite(tensor).all():
            raise WireError(f"tensor {name!r} holds a value that is not finite: it cannot be masked")
        scaled = np.clip(tensor.astype(np.float64) / settings.step, -settings.largest, settings.largest)
        whole = np.floor(scaled + rng.random(tensor.shape))
        integers[name] = np.clip(whole, -settings.largest, settings.largest).astype(np.int64).astype(np.uint32)
    return integers


def signed(values: Ring) -> npt.NDArray[np.int32]:
    """Integers modulo 2^32 as those of least magnitude: what a sum of devices is."""
    return values.astype(np.uint32).view(np.int32)


def flat(tensors: Mapping[str, Ring]) -> Ring:
    """All values in one row, tensors in the order of their names."""
    return np.concatenate([np.ascontiguousarray(tensors[name]).reshape(-1) for name in sorted(tensors)])


def shaped(row: Ring, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Ring]:
    """The tensors of a row that `flat` made."""
    tensors, at = {}, 0
    for name in sorted(shapes):
        size = int(np.prod(shapes[name], dtype=np.int64))
        tensors[name] = row[at : at + size].reshape(shapes[name])
        at += size
    assert at == len(row)
    return {name: tensors[name] for name in shapes}


# --- on the wire ----------------------------------------------------------------------------------------------------


def records_of(tensors: Mapping[str, Ring], settings: SecureAggregation) -> tuple[tuple[TensorRecord, ...], list[Ring]]:
    """Masked tensors as `contract.messages.pack` takes them."""
    buffers = [np.ascontiguousarray(tensor, dtype="<u4") for tensor in tensors.values()]
    records = tuple(
        TensorRecord(name=name, shape=tensor.shape, codec=CODEC, nbytes=4 * tensor.size, scale=settings.step)
        for name, tensor in tensors.items()
    )
    return records, buffers


def read_masked(records: Sequence[TensorRecord], views: Sequence[memoryview]) -> dict[str, Ring]:
    """Masked tensors of an object.

    Raises:
        WireError: Another codec, or not four bytes a value.
    """
    tensors: dict[str, Ring] = {}
    for record, view in zip(records, views, strict=True):
        size = int(np.prod(record.shape, dtype=object)) if record.shape else 1
        if record.codec != CODEC or record.inflated:
            raise WireError(f"tensor {record.name!r}: codec {record.codec!r}, masked updates have {CODEC!r} alone")
        if len(view) != 4 * size:
            raise WireError(f"tensor {record.name!r}: {len(view)} bytes, shape {list(record.shape)} needs {4 * size}")
        tensors[record.name] = np.frombuffer(view, dtype="<u4").reshape(record.shape)
    return tensors


# --- keys and masks -------------------------------------------------------------------------------------------------


def derived(secret: bytes, label: bytes) -> bytes:
    """A key of 32 bytes for one purpose (HKDF-SHA256, RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - extra `secagg`
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label).derive(secret)


def public_key(seed: bytes) -> bytes:
    """The public key (X25519, RFC 7748) of the private key that follows from a seed."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415 - extra `secagg`

    return X25519PrivateKey.from_private_bytes(derived(seed, b"x25519")).public_key().public_bytes_raw()


def agreed(seed: bytes, other: bytes) -> bytes:
    """The secret that the owner of a seed shares with the owner of another public key.

    Raises:
        WireError: That is no public key.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import (  # noqa: PLC0415 - extra `secagg`
        X25519PrivateKey,
        X25519PublicKey,
    )

    try:
        return X25519PrivateKey.from_private_bytes(derived(seed, b"x25519")).exchange(
            X25519PublicKey.from_public_bytes(other)
        )
    except ValueError as error:
        raise WireError(f"no X25519 public key: {error}") from error


def keystream(key: bytes, count: int) -> Ring:
    """`count` integers of ChaCha20's keystream (RFC 8439) under a key that is used for nothing else."""
    from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415 - extra `secagg`
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20  # noqa: PLC0415

    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * count)), dtype="<u4").astype(np.uint32, copy=False)


def self_mask(seed: bytes, place: Place, node: str, count: int) -> Ring:
    """PRG(b_u)."""
    return keystream(derived(seed, place.label("self", node)), count)


def pair_mask(secret: bytes, place: Place, node: str, other: str, count: int) -> Ring:
    """What device `node` adds for its pair with `other`: one of both has the negative of the other's."""
    low, high = sorted((node, other))
    mask = keystream(derived(secret, place.label("pair", low, high)), count)
    return mask if node == low else np.negative(mask)


def pair_masks(seed: bytes, place: Place, node: str, others: Mapping[str, bytes], count: int) -> Ring:
    """The sum of all pair masks of one device.

    Args:
        seed: Of its mask key.
        place: The opening.
        node: The device.
        others: Public mask keys of the other devices, by name.
        count: Number of values.
    """
    total = np.zeros(count, dtype=np.uint32)
    for other, key in others.items():
        total += pair_mask(agreed(seed, key), place, node, other, count)
    return total

"""Shamir's secret sharing (1979, doi 10.1145/359168.359176) of 16-byte secrets over GF(2^128), by `pycryptodome`."""

from __future__ import annotations

from collections.abc import Mapping

from contract.masking import SEED_BYTES, missing_extra


def split(secret: bytes, threshold: int, count: int) -> dict[int, bytes]:
    """Shares of a secret, drawn from the system's randomness.

    Args:
        secret: 16 bytes.
        threshold: Shares that give it back; fewer say nothing of it.
        count: Number of shares.

    Returns:
        Shares of 16 bytes, by their place from 1 to `count`.
    """
    try:
        from Crypto.Protocol.SecretSharing import Shamir  # noqa: PLC0415 - extra `secagg`
    except ImportError as error:
        raise missing_extra("pycryptodome") from error
    assert len(secret) == SEED_BYTES
    return dict(Shamir.split(threshold, count, secret))


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret out of at least `threshold` shares, by their places.

    With wrong shares, or shares of different secrets, the result is another secret; whoever needs to know compares.
    """
    try:
        from Crypto.Protocol.SecretSharing import Shamir  # noqa: PLC0415 - extra `secagg`
    except ImportError as error:
        raise missing_extra("pycryptodome") from error
    assert len(shares) >= threshold
    return bytes(Shamir.combine(sorted(shares.items())[:threshold]))

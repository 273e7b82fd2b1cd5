"""Records as TOML text."""

from __future__ import annotations

from typing import Any

import msgspec
import tomli_w

from contract.task import FLOAT_BITS


def to_toml(value: msgspec.Struct) -> str:
    """A record as TOML text; absent optional values are left out, as TOML has no null, or spelt as `_SPELT` says."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(value, enc_hook=str)))


_SPELT = {"weight_bits": FLOAT_BITS}
"""Keys whose default is not the absent value."""


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        told = {key: _SPELT.get(key) if item is None else item for key, item in value.items()}
        return {key: _without_none(item) for key, item in told.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value

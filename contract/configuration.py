"""TOML files as frozen records: unknown keys refused with the nearest valid name, every error naming file and key.

All parties read their settings through `decode_toml`, so that a mistake looks the same everywhere.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from contract.errors import ConfigurationError

T = TypeVar("T", bound=msgspec.Struct)

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `(?P<path>[^`]*)`)?")
_AT = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigurationError: The file is missing, unreadable or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error


def decode_toml(path: Path, kind: type[T]) -> T:
    """A TOML file as a record.

    Args:
        path: The file.
        kind: The record's type; it forbids unknown fields.

    Raises:
        ConfigurationError: Names the file, the key, its value's fault and what is allowed.
    """
    return decode_tables(read_toml(path), kind, origin=str(path))


def decode_tables(tables: dict[str, Any], kind: type[T], *, origin: str) -> T:
    """Parsed tables as a record; `origin` names them in errors."""
    try:
        return msgspec.convert(tables, kind, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin}: {_explain(str(error), tables, kind)}") from error


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"cannot read a {kind.__name__}")


def _explain(message: str, tables: dict[str, Any], kind: type[msgspec.Struct]) -> str:
    unknown = _UNKNOWN.match(message)
    if unknown:
        section = unknown["path"] or "$"
        names = _fields_at(kind, section)
        near = difflib.get_close_matches(unknown["key"], names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {_key(section, unknown['key'])!r}: {hint}allowed here: {', '.join(sorted(names))}"
    parts = _AT.match(message)
    assert parts is not None
    if not parts["path"]:
        return parts["what"]
    value = _value_at(tables, parts["path"])
    told = value is _ABSENT or isinstance(
        value, dict
    )  # a refused table names its value itself, and may hold a password
    shown = "" if told or parts["path"].endswith("password") else f" = {value!r}"
    return f"key {_key(parts['path'])!r}{shown}: {_lower(parts['what'])}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _key(path: str, last: str = "") -> str:
    return ".".join(p for p in (path.removeprefix("$").removeprefix("."), last) if p)


_ABSENT = object()


def _steps(path: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]|[^.\[\]$]+", path)


def _value_at(tables: Any, path: str) -> Any:
    value = tables
    for step in _steps(path):
        if step.startswith("["):
            inner = step[1:-1]
            if not (isinstance(value, list) and inner.isdigit() and int(inner) < len(value)):
                return _ABSENT
            value = value[int(inner)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return _ABSENT
    return value


def _fields_at(kind: Any, path: str) -> list[str]:
    for step in _steps(path):
        kind = _inner(kind, None if step.startswith("[") else step)
    structs = [k for k in _members(kind) if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    return [field.encode_name for k in structs for field in msgspec.structs.fields(k)]


def _members(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(m for arg in typing.get_args(kind) for m in _members(arg))
    if typing.get_origin(kind) is typing.Annotated:
        return _members(typing.get_args(kind)[0])
    return (kind,)


def _inner(kind: Any, field: str | None) -> Any:
    for member in _members(kind):
        if field is None:
            arguments = [a for a in typing.get_args(member) if a is not Ellipsis]
            if arguments:
                return arguments[-1]
        elif isinstance(member, type) and issubclass(member, msgspec.Struct):
            for item in msgspec.structs.fields(member):
                if item.encode_name == field:
                    return item.type
    return object

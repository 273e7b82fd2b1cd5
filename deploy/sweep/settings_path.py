"""Places in a study's tables: ``task.encoding.steps``, ``schedule[0].codec``, ``schedule[*].codec``.

A number in brackets is an entry of a list, ``*`` all of them, and a word those whose `kind` it is: ``schedule[train]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from contract.errors import ConfigurationError

_STEP = re.compile(r"(?P<name>[A-Za-z_][A-Za-z_0-9]*)(?:\[(?P<which>\*|\d+|[a-z_]+)\])?\Z")


def assign(tables: dict[str, Any], path: str, value: Any) -> None:
    """Sets one key, making the tables on the way to it.

    Args:
        tables: The study's tables, changed in place.
        path: The key.
        value: Its value.

    Raises:
        ConfigurationError: The path cannot be read, or a list on the way has no such entry.
    """
    *way, last = [_step(part, path) for part in path.split(".")]
    if last[1] is not None:
        raise ConfigurationError(f"key {path!r}: ends in a bracket; name the key behind it")
    for place in _places(tables, way, path):
        place[last[0]] = value


def _step(part: str, path: str) -> tuple[str, str | None]:
    found = _STEP.match(part)
    if found is None:
        raise ConfigurationError(
            f"key {path!r}: {part!r} is no step of it; write names and brackets, as in schedule[0].codec, "
            "schedule[*].codec or schedule[train].codec"
        )
    return found["name"], found["which"]


def _places(table: dict[str, Any], way: list[tuple[str, str | None]], path: str) -> Iterator[dict[str, Any]]:
    if not way:
        yield table
        return
    (name, which), *rest = way
    if which is None:
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigurationError(f"key {path!r}: {name!r} is {below!r}, no table; lists need a bracket: {name}[*]")
        yield from _places(below, rest, path)
        return
    for entry in _entries(table.get(name), which, name, path):
        yield from _places(entry, rest, path)


def _entries(found: Any, which: str, name: str, path: str) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        raise ConfigurationError(f"key {path!r}: the study has no list {name!r}")
    if which == "*":
        return found
    if which.isdigit():
        if int(which) >= len(found):
            raise ConfigurationError(f"key {path!r}: the study's {name!r} has {len(found)} entries, counted from 0")
        return [found[int(which)]]
    chosen = [entry for entry in found if entry.get("kind", "train") == which]
    if not chosen:
        kinds = ", ".join(dict.fromkeys(str(entry.get("kind", "train")) for entry in found))
        raise ConfigurationError(f"key {path!r}: no entry of {name!r} has kind {which!r}; there are: {kinds}")
    return chosen

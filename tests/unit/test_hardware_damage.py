"""Every reader over damaged trees: a reason, or exactly the figure that stands in the files. Never a silent 0.

Files are taken away, emptied, garbled, cut short, barred, replaced by folders and by other numbers, before the meter is
opened and again between opening and reading.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.errors import MeterError
from hardware.power import SampleError
from tests import meter_trees as trees
from tests.meter_cases import CASES, Case, number, put

TEXTS = [b"", b"\n", b"nan\n", b"inf\n", b"1e6\n", b"0x10\n", b"1.5\n", b"1 2\n", b"\x00" * 8, b"NC\n"]
ZEROES = [b"0\n", b"-0\n", b"-1\n", b"1\n", b"%d\n" % 10**13]
NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.integers(-(10**7), 10**7))
CONTENTS = st.one_of(
    st.sampled_from([None, "denied", "directory"]),
    st.sampled_from([*ZEROES, *TEXTS]),
    st.binary(max_size=20),
    NUMBERS.map(lambda value: f"{value}\n".encode()),
    st.tuples(st.sampled_from(["cut", "flip"]), st.integers(0, 1600), st.integers(0, 255)),
    st.tuples(st.sampled_from(["drop", "double", "zero", "minus"]), st.integers(0, 25)),
)


def altered(old: bytes, kind: str, place: int, byte: int = 0) -> bytes:
    """A file cut short, with one byte changed, or with one line taken away, doubled, set to zero or to minus."""
    if kind in {"cut", "flip"}:
        place %= len(old) + 1
        return old[:place] if kind == "cut" else old[:place] + bytes([byte]) + old[place + 1 :]
    lines = old.splitlines(keepends=True) or [b""]
    at = place % len(lines)
    name, equals, value = lines[at].rpartition(b"=")
    zero = re.sub(rb"[1-9]", b"0", value)
    new = {"drop": b"", "double": lines[at] * 2, "zero": name + equals + zero, "minus": name + equals + b"-" + value}
    return b"".join([*lines[:at], new[kind], *lines[at + 1 :]])


def inflict(path: Path, content: object) -> set[Path]:
    """Damage one file; the paths that are to be barred come back."""
    if content == "denied":
        return {path}
    if isinstance(content, tuple):
        content = altered(path.read_bytes() if path.is_file() else b"", *content)
    put(path, content)
    return set()


def targets(case: Case) -> list[str]:
    """Every file of the tree, and the folders above it."""
    files = [name for name, content in case.tree.items() if not content.startswith("->")]
    folders = {str(folder) for name in files for folder in list(Path(name).parents)[:-3]}
    return [*files, *sorted(folders)]


def touches(case: Case, damaged: set[str]) -> bool:
    return any(Path(need) == Path(name) or Path(name) in Path(need).parents for need in case.needs for name in damaged)


def attempt(read: Callable[[], float]) -> tuple[float | None, str]:
    """A figure, or the reason why there is none."""
    try:
        return read(), ""
    except (SampleError, MeterError) as fault:
        return None, str(fault)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_trees_give_a_reason_or_the_right_figure(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    files = st.one_of(st.sampled_from(case.needs), st.sampled_from(targets(case)))
    wounds = st.dictionaries(files, CONTENTS, max_size=2)
    before, between = data.draw(wounds, label="before opening"), data.draw(wounds, label="before reading")
    with tempfile.TemporaryDirectory() as folder:
        root = trees.write(case.tree, Path(folder))
        barred = set().union(*(inflict(root / file, content) for file, content in before.items()))
        seen = {file: number(root / file) for file in case.tree}

        def read() -> float:
            nonlocal barred
            with trees.denied(*barred):
                sample = case.open(root)
            case.advance(root)
            barred |= set().union(*(inflict(root / file, content) for file, content in between.items()))
            with trees.denied(*barred):
                return sample()

        figure, reason = attempt(read)
        with trees.denied(*barred):
            assert case.find(root).detail.strip()
        if figure is None:
            assert reason.strip()
            assert touches(case, before.keys() | between.keys()), f"nothing it needs is broken: {reason}"
        else:
            expected = case.figure(seen.get, lambda file: None if root / file in barred else number(root / file))
            assert expected is not None
            assert not any(before.get(need) == "denied" for need in case.needs)
            assert 0 < figure == pytest.approx(expected, rel=1e-9)

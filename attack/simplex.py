"""The simplex solver of all linear programs here: HiGHS (Huangfu and Hall 2018), warm-started, one thread, silent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import highspy

from attack.clock import spend
from attack.costs import program

_OPTIONS = (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex"))

CITED = ("huangfu2018parallelizing",)
"""Keys of the works that it follows (`attack.citations`)."""


def simplex() -> highspy.Highs:
    """A solver without a model."""
    _greeted()
    return _new()


def _new() -> highspy.Highs:
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in _OPTIONS:
        solver.setOptionValue(option, value)
    return solver


def solved(solver: highspy.Highs) -> bool:
    """Runs a solver from its last basis; whether it found an optimum."""
    solver.run()
    iterations = solver.getInfo().simplex_iteration_count
    spend(program(solver.getNumRow(), solver.getNumCol(), iterations))
    return bool(solver.getModelStatus() == highspy.HighsModelStatus.kOptimal)


@cache
def _greeted() -> None:
    """HiGHS writes its name and licence to the standard output before it can be told not to, once a process."""
    with _silence():
        _new()


@contextmanager
def _silence() -> Iterator[None]:
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)

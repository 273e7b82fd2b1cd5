"""What work costs, in nominal seconds: formulas in the problem's size, with rates measured once.

Measured on one thread of a shared AMD EPYC core that had much else to do; `python -m tests.benchmarks.clock` compares
them with the machine at hand: about a factor of 2 for each attack there. Other constants would be as good: what counts
is that no cost depends on the machine, on what else it does, or on what this process did before.
"""

from __future__ import annotations

import math

CALL_S = 2e-6
"""A call of numpy on little data."""
OPERATOR_S = 5e-6
"""An operator of torch on little data, its share of the derivative's bookkeeping included."""
ELEMENT_S = 0.8e-9
"""One pass over one number of four bytes, or within a vector that a cache holds."""
PRODUCT_S = 0.05e-9
"""One multiplication and addition of a matrix product in float64."""
FACTOR_S = 0.4e-9
"""The same within a decomposition, which is not one product after another."""


def calls(count: float, elements: float = 0.0) -> float:
    """So many calls of numpy, which pass over so many numbers in all."""
    return count * CALL_S + elements * ELEMENT_S


def operators(count: float, elements: float = 0.0) -> float:
    """So many operators of torch, which pass over so many numbers in all."""
    return count * OPERATOR_S + elements * ELEMENT_S


def product(*sizes: float) -> float:
    """A product of matrices `[a, b] [b, c]`, by the sizes a, b and c in any order."""
    return CALL_S + math.prod(sizes) * PRODUCT_S


def singular(rows: int, columns: int, *, full: bool = False) -> float:
    """A singular value decomposition; `full` with square factors on both sides."""
    least = min(rows, columns)
    return 20e-6 + (1.5 * rows * columns * least + (1.0 * max(rows, columns) ** 2 * least if full else 0.0)) * FACTOR_S


def triangular(rows: int, columns: int) -> float:
    """A QR decomposition, or a least-squares solution by one."""
    return 15e-6 + 2.0 * rows * columns * min(rows, columns) * FACTOR_S


def solution(size: int, count: int = 1) -> float:
    """So many square systems solved, or inverted."""
    return 10e-6 + count * (1e-6 + size**3 * FACTOR_S)


def program(rows: int, columns: int, iterations: int) -> float:
    """A linear program of a dense matrix, by the iterations that its solver says it took."""
    return 50e-6 + 2.0 * rows * columns * ELEMENT_S + max(iterations, 0) * (3e-6 + 2.0 * rows * columns * ELEMENT_S)

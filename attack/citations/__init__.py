"""The works that the attacks come from and rest on, as BibTeX, and the one whose claim they test."""

from __future__ import annotations

from attack.citations import attacks, numerics
from contract.citations import CITATIONS as BELOW
from hardware.bibliography import Citation, catalogue

__all__ = ["CITATIONS", "CLAIM", "works"]

_SHARED = ("bengio2013estimating", "alistarh2017qsgd", "jonker1987shortest")
"""Keys of works that `contract` cites too."""
CITATIONS: dict[str, Citation] = catalogue(attacks.WORKS, numerics.WORKS, (BELOW[key] for key in _SHARED))
"""Every cited work by its key. `spikeleak` stands for derivations of this project's own, given in the method's file."""
CLAIM = "aksu2025privacy"
"""Key of the work that says that spiking networks leak little: what attacks on them answer."""


def works(*keys: str) -> tuple[Citation, ...]:
    """The works of these keys, each once."""
    return tuple(CITATIONS[key] for key in dict.fromkeys(keys))

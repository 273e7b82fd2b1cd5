"""The works that codecs, networks, data sets and scores come from, as BibTeX.

Members of families hold keys (`cited`), so that a device, which cites nothing, never imports this.
"""

from __future__ import annotations

from contract.citations import data, networks, scores, updates
from hardware.bibliography import Citation, catalogue

__all__ = ["CITATIONS"]

CITATIONS: dict[str, Citation] = catalogue(updates.WORKS, networks.WORKS, data.WORKS, scores.WORKS)

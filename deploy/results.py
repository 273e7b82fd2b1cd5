"""What a run leaves beside its ledger: `summary.json` and `report.html`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contract.errors import ConfigurationError
from deploy import environment
from deploy.output import faults_of, write_atomically


def write_results(out: Path) -> dict[str, Any]:
    """Writes `summary.json` and `report.html` of a run from its ledgers.

    Raises:
        ConfigurationError: The folder holds no run.
        EnvironmentFaultError: Its ledger cannot be read, or the folder not written.
    """
    with faults_of(out):
        return _write_results(out)


def _write_results(out: Path) -> dict[str, Any]:
    from server.report import write_report  # noqa: PLC0415 - matplotlib takes half a second
    from server.summary import summarise  # noqa: PLC0415

    if not (out / "ledger.sqlite").exists():
        raise ConfigurationError(f"{out}: holds no ledger.sqlite, so no run; name the --out folder of one")
    twin = out / "twin"
    summary = summarise(out, twin if (twin / "ledger.sqlite").exists() else None)
    summary |= environment.recorded(out / "settings")
    write_atomically(out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    write_report(out)
    return summary

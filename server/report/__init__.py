"""The report: one self-contained page per run, from its ledger."""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "report.html"


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Writes a run's report.

    Args:
        directory: The run's folder, with `ledger.sqlite`; its twin's lies in `twin/`.
        out: The file to write; `report.html` in the run's folder by default.

    Returns:
        The file.

    Raises:
        ConfigurationError: The folder holds no run.
        EnvironmentFaultError: The report cannot be written.
    """
    from contract.errors import EnvironmentFaultError  # noqa: PLC0415
    from server.report.page import render  # noqa: PLC0415 - matplotlib takes half a second that other rooms must not pay
    from server.report.source import read_report_data  # noqa: PLC0415

    path = directory / FILE_NAME if out is None else out
    text = render(read_report_data(directory))
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise EnvironmentFaultError(f"report {path}: {error}; choose a folder that can be written") from error
    return path

"""From a run's folder to the report's records: ledger, summary and configuration, whatever of them is there."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sqlite3
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.errors import EnvironmentFaultError, SpikeleakError
from server.ledger import FILE_NAME, Ledger
from server.report.constants import used_constants
from server.report.data import Family, ReportData
from server.report.ledger_rows import read_family

TWIN_FOLDER = "twin"
_LIBRARIES = ("spikeleak", "numpy", "torch", "snntorch", "onnxruntime", "paho-mqtt", "msgspec", "scipy", "matplotlib")


def read_report_data(directory: Path) -> ReportData:
    """Everything that a run's folder says about it.

    Args:
        directory: Folder with `ledger.sqlite`, and if there `config.toml`, `summary.json`, `twin/ledger.sqlite`.

    Raises:
        ConfigurationError: There is no ledger.
        EnvironmentFaultError: The ledger is damaged.
    """
    problems: list[str] = []
    summary = _read_summary(directory / "summary.json", problems)
    text, tables = _read_config(directory / "config.toml", problems)
    try:
        with Ledger.open_read(directory / FILE_NAME) as ledger:
            snn = read_family(ledger, summary, twin=False)
            run = ledger.meta("run")
    except sqlite3.Error as error:
        raise EnvironmentFaultError(f"ledger {directory / FILE_NAME}: {error}; the file is damaged") from error
    twin, missing = _read_twin(directory, summary, tables, problems)
    families = (snn,) if twin is None else (snn, twin)
    constants = used_constants({row.reading.source for family in families for row in family.energy}, directory)
    return ReportData(
        name=str(tables.get("name") or run or directory.resolve().name),
        snn=snn,
        twin=twin,
        twin_missing=missing,
        configuration=text,
        versions=_versions(summary),
        broker=_broker(summary, tables),
        threat=_threat(tables),
        constants=constants.rows,
        prices=constants.prices,
        without_figure=constants.notes,
        problems=(*problems, *constants.problems),
    )


def _read_twin(
    directory: Path, summary: Mapping[str, Any], tables: Mapping[str, Any], problems: list[str]
) -> tuple[Family | None, str]:
    path = directory / TWIN_FOLDER / FILE_NAME
    if not path.exists():
        asked = "twin" in tables
        return None, "it was asked for but has not run" if asked else "the study did not ask for one"
    try:
        with Ledger.open_read(path) as ledger:
            part = summary.get("twin")
            return read_family(ledger, part if isinstance(part, dict) else {}, twin=True), ""
    except (SpikeleakError, sqlite3.Error) as error:
        problems.append(f"the twin's ledger cannot be read: {error}")
        return None, "its ledger cannot be read"


def _read_summary(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append("summary.json is not there: published, lost and duplicated updates are not known.")
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"summary.json cannot be read: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def _read_config(path: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"config.toml cannot be read: {error}")
        return "", {}
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"config.toml is not valid TOML: {error}")
        return text, {}


def _versions(summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    recorded = summary.get("versions")
    if isinstance(recorded, dict):
        return tuple((str(name), str(version)) for name, version in recorded.items())
    machine = f"{platform.system()} {platform.machine()}"
    found = [("read with", "the versions of the program that wrote this page"), ("machine", machine)]
    found.append(("python", platform.python_version()))
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def _broker(summary: Mapping[str, Any], tables: Mapping[str, Any]) -> str:
    if summary.get("broker"):
        return str(summary["broker"])
    section = tables.get("broker")
    if not isinstance(section, dict):
        return ""
    return "as configured: " + ", ".join(f"{key} {value}" for key, value in section.items() if value not in {"", 0})


def _threat(tables: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    attack = tables.get("attack")
    threat = attack.get("threat") if isinstance(attack, dict) else None
    if not isinstance(threat, dict):
        return ()
    words = {True: "known to the attacker", False: "not known"}
    return tuple((str(name), words[value] if isinstance(value, bool) else str(value)) for name, value in threat.items())

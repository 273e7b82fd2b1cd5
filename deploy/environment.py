"""What a run ran on: recorded when it starts, so that a report written later elsewhere still tells."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from deploy import broker

FILE_NAME = "environment.json"
_PACKAGES = (
    "spikeleak",
    "torch",
    "snntorch",
    "numpy",
    "scipy",
    "highspy",
    "paho-mqtt",
    "msgspec",
    "onnxruntime",
    "amqtt",
)


def describe(running: broker.Broker) -> dict[str, Any]:
    """Broker, versions and machine."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    versions["machine"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return {"broker": broker_name(running), "versions": versions}


def broker_name(running: broker.Broker) -> str:
    """The broker with its version, as far as it tells."""
    path = broker.mosquitto_path()
    if running.name == "mosquitto" and path is not None:
        said = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
        return said or running.name
    if running.name == "amqtt":
        return f"amqtt {importlib.metadata.version('amqtt')}, embedded"
    return running.name


def record(running: broker.Broker, folder: Path, *, emulation: dict[str, Any]) -> None:
    """Writes the description into `folder`, with what the devices stand in for."""
    described = {**describe(running), "emulation": emulation}
    (folder / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(described)))


def recorded(folder: Path) -> dict[str, Any]:
    """What was recorded there; empty when nothing was."""
    path = folder / FILE_NAME
    return dict(msgspec.json.decode(path.read_bytes())) if path.exists() else {}

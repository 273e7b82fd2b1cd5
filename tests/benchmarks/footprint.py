"""Our board client beside torch + snntorch and a Flower node: disk, import time, memory of a node that waits.

python -m tests.benchmarks.footprint [--environments DIR]

Each is installed afresh into an environment of its own. "A node that waits" is the process that a device would run,
connected and idle: `spikeleak-client` against a mosquitto, `flower-supernode` against a `flower-superlink`, both on the
loopback interface; torch + snntorch is a process that has imported them, which a training client of either must.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from deploy import broker
from tests.benchmarks.board import base_requirements, board_environment, import_cost, installed_mb
from tests.benchmarks.flower import REQUIREMENT

SETTLE_S = 10.0
TORCH = ("torch==2.13.0", "snntorch")


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What one client takes; `None` where it could not be measured, with the reason in `note`."""

    name: str
    install_mb: float
    import_s: float
    import_mb: float
    waiting_mb: float | None
    note: str = ""


def environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with these packages; its Python.

    Raises:
        RuntimeError: pip could not install them here; says its last line.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    extra = shlex.split(os.environ.get("PIP_ARGS", ""))
    done = subprocess.run([*pip, *extra, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    return python


def waiting_mb(command: list[str], env: dict[str, str], cwd: Path) -> tuple[float | None, str]:
    """Resident megabytes of a process and its children after some seconds, and a note when it has ended."""
    with (cwd / "waiting.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=cwd)
        try:
            time.sleep(SETTLE_S)
            if child.poll() is not None:
                return None, (cwd / "waiting.log").read_text(errors="replace").strip()[-300:]
            root = psutil.Process(child.pid)
            return sum(p.memory_info().rss for p in [root, *root.children(recursive=True)]) / 1e6, ""
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
            child.kill()
            child.wait()


def ours(folder: Path) -> Footprint:
    """The board's client, connected to a broker, without a server."""
    python = environment(folder / "base", *base_requirements())
    seconds, peak_mb = import_cost(python, "import edge_client.app, edge_client.engines.onnx")
    with broker.serve(broker.BrokerSection(), folder) as running:
        config = folder / "device.toml"
        config.write_text(
            f'run = "r"\nnode = "pi-1"\ndirectory = "{folder / "device"}"\nshard = 0\nshards = 1\n'
            f"[link]\nport = {running.link.port}\n"
        )
        found, note = waiting_mb([str(python), "-m", "edge_client", str(config)], board_environment(), folder)
    return Footprint(
        name="spikeleak-client",
        install_mb=installed_mb(python),
        import_s=seconds,
        import_mb=peak_mb,
        waiting_mb=found,
        note=note,
    )


def torch_and_snntorch(folder: Path) -> Footprint:
    """What any client that trains with torch must load."""
    python = environment(folder / "torch", *TORCH)
    seconds, peak_mb = import_cost(python, "import torch, snntorch")
    return Footprint(
        name="torch + snntorch",
        install_mb=installed_mb(python),
        import_s=seconds,
        import_mb=peak_mb,
        waiting_mb=peak_mb,
    )


def flower_node(folder: Path) -> Footprint:
    """A SuperNode, connected to a SuperLink, with no app running: without torch."""
    python = environment(folder / "flower", REQUIREMENT.replace("[simulation]", ""))
    seconds, peak_mb = import_cost(python, "import flwr.supernode.start_client_internal")
    with _superlink(python, folder) as port:
        command = [str(python.with_name("flower-supernode")), "--insecure", "--superlink", f"127.0.0.1:{port}"]
        command += ["--host", "127.0.0.1", "--port", str(broker.free_port())]
        found, note = waiting_mb(command, _flower_env(python, folder), folder)
    return Footprint(
        name="Flower SuperNode",
        install_mb=installed_mb(python),
        import_s=seconds,
        import_mb=peak_mb,
        waiting_mb=found,
        note=note,
    )


def _flower_env(python: Path, folder: Path) -> dict[str, str]:
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # it starts programs of its own by their names
    home = str(folder / "flwr")
    return {**os.environ, "PATH": path, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": home, "PYTHONPATH": ""}


@contextlib.contextmanager
def _superlink(python: Path, folder: Path) -> Iterator[int]:
    """A SuperLink on a free port."""
    port = broker.free_port()
    command = [str(python.with_name("flower-superlink")), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "superlink.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=_flower_env(python, folder), cwd=folder)
        try:
            end_s = time.monotonic() + 60.0
            while time.monotonic() < end_s and child.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                    break
                time.sleep(0.2)
            yield port
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
            child.kill()
            child.wait()


def main(arguments: list[str] | None = None) -> None:
    """One line each, and ours as a share of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    found: list[Footprint] = []
    with tempfile.TemporaryDirectory() as text:
        for measure in (ours, torch_and_snntorch, flower_node):
            try:
                one = measure(Path(text))
            except RuntimeError as error:
                print(f"{measure.__name__}: not measured, cannot be installed here ({error})")
                continue
            found.append(one)
            waits = f"{one.waiting_mb:.0f} MB" if one.waiting_mb is not None else f"not measured ({one.note})"
            print(
                f"{one.name}: {one.install_mb:.0f} MB installed, import {one.import_s:.2f} processor seconds and "
                f"{one.import_mb:.0f} MB, a node that waits {waits}",
                flush=True,
            )
    for other in found[1:] if found and found[0].name == "spikeleak-client" else []:
        first = found[0]
        shares = [
            f"{first.install_mb / other.install_mb:.2f} of its disk",
            f"{first.import_s / other.import_s:.2f} of its import time",
        ]
        if first.waiting_mb is not None and other.waiting_mb is not None:
            shares.append(f"{first.waiting_mb / other.waiting_mb:.2f} of its memory")
        print(f"spikeleak-client against {other.name}: {', '.join(shares)}")


if __name__ == "__main__":
    main()

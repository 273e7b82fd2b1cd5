"""Runs of a sweep on a Ray cluster: each run, its attacks included, is one task that any node may take.

A node needs this program and its data sets. A task works in a folder of its own on its node and sends the run's files
back; one whose node dies is given to another and starts anew.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.study import to_toml
from deploy.supervisor import module_environment
from deploy.sweep.plan import Point

FILES = ("ledger.sqlite", "summary.json", "report.html", "model.safetensors", "config.toml")
_RETRIES = 10
_NEEDED_BYTES = 2 * 2**30


def run_here(toml: str) -> dict[str, bytes]:
    """Runs a study in a folder of its own.

    Args:
        toml: The study.

    Returns:
        Contents of the run's files by path.

    Raises:
        RuntimeError: The run failed; its last line is the message.
    """
    with tempfile.TemporaryDirectory(prefix="spikeleak-") as folder:
        study, out = Path(folder) / "study.toml", Path(folder) / "out"
        study.write_text(toml, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "run", str(study), "--out", str(out)],
            capture_output=True,
            env={**module_environment(), "OMP_NUM_THREADS": "1"},
            check=False,
        )
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"status {done.returncode}: {lines[-1] if lines else 'no output'}")
        paths = [out / name for name in FILES] + [out / "twin" / name for name in FILES]
        return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.exists()}


class RayRuns:
    """Sends runs to a cluster.

    Args:
        address: Of the cluster (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``).
        folder: Where the runs' folders lie on this machine.

    Raises:
        ConfigurationError: Ray is not installed.
        EnvironmentFaultError: The cluster cannot be reached.
    """

    def __init__(self, address: str, folder: Path) -> None:
        try:
            import ray  # noqa: PLC0415 - an extra of its own
        except ImportError as error:
            raise ConfigurationError(
                f"--cluster {address}: Ray is not installed here; pip install 'spikeleak[cluster]'"
            ) from error
        self._ray, self._folder = ray, folder
        self._waiting: dict[Any, Point] = {}
        self._ours = not ray.is_initialized()
        try:
            if self._ours:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise EnvironmentFaultError(f"--cluster {address}: cannot be reached: {error}") from error
        limited = ray.remote(num_cpus=1, max_retries=_RETRIES, memory=_NEEDED_BYTES)
        self._remote = limited(run_here)

    def start(self, point: Point) -> bool:
        """Hands a run to the cluster, which queues it."""
        self._waiting[self._remote.remote(to_toml(point.study))] = point
        return True

    def poll(self) -> dict[str, str]:
        """For each run that ended now, by name: why it failed, empty where it did not."""
        if not self._waiting:
            return {}
        done, _ = self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)
        return {point.name: self._fetched(task, point) for task in done for point in (self._waiting.pop(task),)}

    def _fetched(self, task: Any, point: Point) -> str:
        try:
            files = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return str(getattr(error, "cause", None) or error)
        for name in sorted(files, key=lambda path: path == "summary.json"):  # a folder with it is complete
            path = self._folder / point.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        return ""

    def close(self) -> None:
        """Gives up what is not finished."""
        for task in self._waiting:
            self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()

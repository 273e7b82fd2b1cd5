"""Runs of a sweep on a Ray cluster: each run is a task that any node may take, and so is each of its attack jobs.

A node needs this program, its data sets, and mosquitto for attack jobs on other nodes than their run's (without it they
stay beside the run). A run and its attack jobs get their places together (`deploy.sweep.room`), spread over the nodes.
A run whose node is lost is given to another and begins anew; an attack job that is lost is sent again, and its run goes
on.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.study import to_toml
from deploy.sweep.plan import Point
from deploy.sweep.room import Part, parts
from deploy.sweep.run_task import BeginAnewError, run_here

_MOST_LIVES = 10
_GRACE_S = 15.0


class _Placed(msgspec.Struct, kw_only=True):
    """A run at work: its places, and how often it began."""

    point: Point
    parts: tuple[Part, ...]
    group: Any
    lives: int


class RayRuns:
    """Sends runs to a cluster.

    Args:
        address: Of the cluster (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``).
        folder: Where the runs' folders lie on this machine.
        parallel: Runs at a time at most; `None`: as many as the cluster has places for.

    Raises:
        ConfigurationError: Ray is not installed.
        EnvironmentFaultError: The cluster cannot be reached.
    """

    def __init__(self, address: str, folder: Path, parallel: int | None = None) -> None:
        try:
            import ray  # noqa: PLC0415 - an extra of its own
        except ImportError as error:
            raise ConfigurationError(
                f"--cluster {address}: Ray is not installed here; pip install 'spikeleak[cluster]'"
            ) from error
        self._ray, self._folder, self._parallel = ray, folder, parallel
        self._at_work: dict[Any, _Placed] = {}
        self._again: list[tuple[Point, int]] = []
        self._asked: tuple[str, tuple[Part, ...], Any] | None = None
        self._ours = not ray.is_initialized()
        try:
            if self._ours:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise EnvironmentFaultError(f"--cluster {address}: cannot be reached: {error}") from error

    def start(self, point: Point) -> bool:
        """Starts a run if the cluster has places for all of it now, and none that was lost waits for them."""
        full = self._parallel is not None and len(self._at_work) >= self._parallel
        return not (full or self._again) and self._begin(point, lives=1)

    def _begin(self, point: Point, *, lives: int) -> bool:
        wanted = parts(point.study, self._node_cpus())
        group = self._places(point.name, wanted)
        if group is None:
            return False
        strategy = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0
        )
        remote = self._ray.remote(num_cpus=wanted[0].cpus, memory=wanted[0].memory_bytes, max_retries=0)(run_here)
        task = remote.options(scheduling_strategy=strategy).remote(to_toml(point.study), wanted)
        self._at_work[task] = _Placed(point=point, parts=wanted, group=group, lives=lives)
        return True

    def _node_cpus(self) -> list[float]:
        nodes: list[dict[str, Any]] = self._ray.nodes()  # type: ignore[no-untyped-call]
        return [float(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]

    def _places(self, name: str, wanted: tuple[Part, ...]) -> Any | None:
        """Places for a run once the cluster has set them aside; they are asked for by one run at a time."""
        if self._asked is not None and self._asked[:2] != (name, wanted):
            self._drop()
        if self._asked is None:
            bundles = [part.bundle() for part in wanted]
            self._asked = name, wanted, self._ray.util.placement_group(bundles, strategy="SPREAD")
        group = self._asked[2]
        if not self._whole(group):
            return None
        self._asked = None
        return group

    def _whole(self, group: Any) -> bool:
        return bool(self._ray.util.placement_group_table(group)["state"] == "CREATED")

    def _drop(self) -> None:
        if self._asked is not None:
            self._ray.util.remove_placement_group(self._asked[2])
            self._asked = None

    def poll(self) -> dict[str, str]:
        """For each run that ended now, by name: why it failed, empty where it did not."""
        ended: dict[str, str] = {}
        self._leave_too_small()
        tasks = list(self._at_work)
        done = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)[0] if tasks else []
        for task in done:
            placed = self._at_work.pop(task)
            fault = self._fetched(task, placed)
            self._ray.util.remove_placement_group(placed.group)
            if fault is not None:
                ended[placed.point.name] = fault
        if self._again and self._begin(self._again[0][0], lives=self._again[0][1]):
            del self._again[0]
        return ended

    def _leave_too_small(self) -> None:
        """Begins anew what lost a part with its node, where what is left of the cluster has no room for such a part."""
        cpus = self._node_cpus()
        for task, placed in list(self._at_work.items()):
            if parts(placed.point.study, cpus)[0].cpus < placed.parts[0].cpus and not self._whole(placed.group):
                del self._at_work[task]
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.cancel(task)
                self._ray.util.remove_placement_group(placed.group)
                self._again.append((placed.point, placed.lives))

    def _fetched(self, task: Any, placed: _Placed) -> str | None:
        """Brings a run's files here; why it failed, or `None` where it begins anew."""
        try:
            files = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            ours = isinstance(error, self._ray.exceptions.RayTaskError) and not isinstance(cause, BeginAnewError)
            if ours or placed.lives >= _MOST_LIVES:
                return str(cause or error)
            self._again.append((placed.point, placed.lives + 1))
            return None
        for name in sorted(files, key=lambda path: path == "summary.json"):  # a folder with it is complete
            path = self._folder / placed.point.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        return ""

    def close(self) -> None:
        """Gives up what is not finished: runs and their attack jobs end as after Ctrl-C, then by force."""
        self._drop()
        tasks = list(self._at_work)
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=_GRACE_S)
        for placed in self._at_work.values():
            self._ray.util.remove_placement_group(placed.group)
        if self._ours:
            self._ray.shutdown()

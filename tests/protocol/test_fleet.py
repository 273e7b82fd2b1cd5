"""Emulated fleets through `run_study`: many devices in a process that is killed, that come and go; a shaped link."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.datasets import dataset_info, held_out_split, load, load_part, partition
from contract.task import TaskSpec
from deploy.board import LinkProfile
from deploy.emulate import run_study
from deploy.shared_preparation import SharedPreparation
from deploy.study import Study, load_study, to_toml
from edge_client.settings import ClientSettings
from server.ledger import FILE_NAME, Ledger
from server.progress import Progress

HEAD = """
name = "fleet"
[task]
dataset = "digits"
[task.encoding]
steps = 4
[task.model]
hidden = [{hidden}]
weight_bits = 32
[server]
drain_s = 20.0
evaluate = false
"""


def study(tmp_path: Path, text: str, *, hidden: int = 16) -> Study:
    path = tmp_path / "study.toml"
    head, _, tables = text.partition("\n[")
    name, _, rest = HEAD.format(hidden=hidden).partition("[task]")
    path.write_text(f"{name}{head}\n[task]{rest}\n[{tables}")
    return load_study(path)


MANY = """
clients = 6
[devices]
per_process = 3
seed = 1
[devices.churn]
online_s = 2.0
away_s = 0.5
share = 0.5
crash = 0.4
sleep = 0.3
seed = 5
[[devices.group]]
count = 1
board = "pi5"
[attack]
attacks = ["label", "ratio"]
budget_s = 1.0
[[schedule]]
kind = "train"
rounds = 4
algorithm = "fedavg"
local_steps = 4000
batch_size = 4
learning_rate = 0.01
codec = "int8"
[[schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
clients = 3
"""


class Killer:
    """Kills one process of devices when the second round is open."""

    def __init__(self, out: Path) -> None:
        self._settings = out / "settings" / "devices-003-005.toml"
        self.killed = 0

    def show(self, _label: str, progress: Progress) -> None:
        if self.killed or progress.round < 2:
            return
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self._settings).encode() in command:
                self.killed = int(entry.name)
                os.kill(self.killed, signal.SIGKILL)


def test_devices_of_one_process_are_devices_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killer = Killer(out)
    summary = run_study(study(tmp_path, MANY), out, show=killer.show)
    assert killer.killed, "the run was over before its process was killed"
    assert summary["rounds"] == 5
    updates = summary["updates"]
    assert (updates["lost"], updates["duplicated"]) == (0, 0)
    assert 5 <= updates["admitted"] <= 4 * 6 + 3, "whoever is away when a round opens is not asked"
    assert summary["emulation"]["per_process"] == 3
    assert summary["emulation"]["churn"]["crash"] == 0.4
    assert [(b["name"], b["devices"]) for b in summary["emulation"]["boards"]] == [("pi5", 1), ("this machine", 5)]
    with Ledger.open_read(out / FILE_NAME) as ledger:
        nodes = {
            row["node"]: row["epoch"] for row in ledger.rows("SELECT node, MAX(epoch) epoch FROM nodes GROUP BY 1")
        }
        assert set(nodes) == {f"device-{i:03d}" for i in range(6)}
        assert min(nodes[f"device-{i:03d}"] for i in (3, 4, 5)) >= 2, "all devices of the killed process came back"
        assert ledger.value("SELECT COUNT(*) FROM rounds WHERE closed = 'complete'") >= 4
        found = {row[0] for row in ledger.rows("SELECT DISTINCT provenance FROM energy")}
        assert found == {"modelled", "unavailable"}
        assert ledger.value("SELECT COUNT(DISTINCT uid) FROM scores JOIN updates ON uid = update_uid") > 0
    log = (out / "logs" / "devices-000-002.log").read_text() + (out / "logs" / "devices-003-005.log").read_text()
    assert "Traceback" not in log
    assert sorted((out / "devices" / "graphs").iterdir()), "one copy of the graphs for all"
    assert not list((out / "devices").glob("device-*/graphs"))


SLOW = """
clients = 2
[devices]
meter = "replay:{trace}"
[[devices.group]]
count = 1
rate_kbit_s = 100.0
latency_ms = 200.0
cpu_share = 0.9
[attack]
attacks = []
[[schedule]]
kind = "train"
algorithm = "fedavg"
batch_size = 4
learning_rate = 0.1
codec = "fp32"
deadline_s = 120.0
"""


def test_a_shaped_link_takes_the_time_that_is_calculated_for_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("# scope: board\ntime_s,power_w\n0,2.0\n600,2.0\n")
    out = tmp_path / "out"
    summary = run_study(study(tmp_path, SLOW.format(trace=trace), hidden=96), out, show=lambda *_: None)
    assert (summary["updates"]["admitted"], summary["updates"]["lost"]) == (2, 0)
    with Ledger.open_read(out / FILE_NAME) as ledger:
        sql = "SELECT duration_s FROM energy WHERE phase = 'transmit' AND source LIKE 'model:%' AND node = ?"
        shaped_s, free_s = (ledger.value(sql, f"device-00{i}") for i in (0, 1))
        nbytes = ledger.value("SELECT bytes FROM updates WHERE node = 'device-000'")
        assert ledger.value("SELECT COUNT(*) FROM energy WHERE provenance = 'measured'") == 0
        assert ledger.value("SELECT COUNT(*) FROM energy WHERE provenance = 'emulated'") > 0
    calculated_s = LinkProfile(rate_kbit_s=100.0, latency_ms=200.0).transmit_s(nbytes)
    assert calculated_s > 2
    assert shaped_s == pytest.approx(calculated_s, rel=0.1)
    assert free_s < calculated_s / 2
    emulation = json.loads((out / "settings" / "environment.json").read_text())["emulation"]
    assert emulation["boards"][0]["link"]["rate_kbit_s"] == 100.0
    used = emulation["limits"]["snn-device-000"]
    assert used["cpu"] in {"cgroup v1", "cgroup v2", "duty cycle"}
    assert 0 < used["busiest_share"] <= 0.9 * 1.2
    assert "snn-device-001" not in emulation["limits"]


def test_a_shared_preparation_deals_what_a_device_alone_gets() -> None:
    task = TaskSpec(dataset="digits")
    prepare, engines = SharedPreparation(), set()
    whole = load("digits")
    train, _ = held_out_split(task, whole.y)
    parts = partition(task, whole.y[train], 5)
    for shard in range(5):
        settings = ClientSettings(run="r", node="n", directory=Path(), shard=shard, shards=5, engine="torch")
        mine, engine = prepare(settings, task, {})
        alone = load_part("digits", lambda _y, _users, shard=shard: train[parts[shard]])
        assert (mine.y == alone.y).all()
        assert (mine.x == alone.x).all()
        assert mine.classes == dataset_info("digits").classes
        engines.add(id(engine))
    assert len(engines) == 1


def test_a_devices_clock_stands_still_while_the_process_works_for_another() -> None:
    from deploy.virtual import WorkTime

    work = WorkTime()
    before = {node: work.clock(node) for node in "ab"}
    began_s = time.monotonic()
    with work.of("a"):
        time.sleep(0.2)
        assert work.node == "a"
        assert work.clock("a") - before["a"] >= 0.2
    taken_s = time.monotonic() - began_s
    after = {node: work.clock(node) for node in "ab"}
    assert after["a"] - before["a"] >= 0.2
    assert after["b"] - before["b"] <= taken_s - 0.2 + 0.1
    with work.of("b"):
        time.sleep(0.05)
    assert work.clock("a") == pytest.approx(after["a"], abs=0.04)


def test_a_process_of_devices_leaves_in_order(running_broker, tmp_path: Path) -> None:
    from deploy.virtual import VirtualDevice, VirtualSettings

    devices = tuple(
        VirtualDevice(
            run="r",
            node=f"device-{i:03d}",
            link=running_broker.link,
            directory=tmp_path / f"device-{i:03d}",
            shard=i,
            shards=3,
            sync=False,
        )
        for i in range(3)
    )
    config = tmp_path / "devices.toml"
    config.write_text(to_toml(VirtualSettings(devices=devices)))
    child = subprocess.Popen([sys.executable, "-m", "deploy.virtual", str(config)], stderr=subprocess.PIPE)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(2)
        child.terminate()
        assert child.wait(10) == 0
        assert child.stderr.read() == b""
    finally:
        child.kill()
        child.communicate()

"""A run as a user starts it: devices killed, runs interrupted, things that are not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from deploy.broker import free_port
from deploy.supervisor import module_environment
from server.ledger import Ledger
from server.progress import Progress, read_progress
from tests.conftest import ROOT, brokers, spikeleak

StudyFile = Callable[..., Path]
LONG = 1000
"""Local steps that keep a round open for a tenth of a second or so: long enough for a fault to fall into one."""


@contextmanager
def running(study: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """`spikeleak run` in the background; nothing of it is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "run", str(study), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(
    process: subprocess.Popen[str], directory: Path, condition: Callable[[Progress], bool], timeout_s: float = 60.0
) -> None:
    """Waits for a state of the run; an end of its process before that is a failure with its output."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        progress = read_progress(directory)
        if progress is not None and condition(progress):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"not reached within {timeout_s} s; last state: {read_progress(directory)}")


def parties(process: subprocess.Popen[str], part: str) -> list[psutil.Process]:
    """Living children whose command line names `part`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # and ZombieProcess, which is one
            if part in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.parametrize("broker", brokers())
def test_a_small_run_leaves_all_that_is_promised(study_file: StudyFile, tmp_path: Path, broker: str) -> None:
    out = tmp_path / "out"
    done = spikeleak("run", str(study_file(broker=broker)), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("report.html", "ledger.sqlite", "summary.json", "model.safetensors", "config.toml"):
        assert (out / name).stat().st_size > 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rounds"], summary["clients"]) == (3, 3)
    updates = summary["updates"]
    assert (updates["published"], updates["admitted"], updates["refused"]) == (7, 7, 0)
    assert (updates["lost"], updates["duplicated"]) == (0, 0)
    assert 0.2 < summary["accuracy"] <= 1
    assert summary["bytes_up"] > 7 * 4 * (64 * 32 + 32 + 32 * 10 + 10)
    assert summary["energy_j"]["provenance"] == "modelled"
    assert summary["energy_j"]["value"] > 0
    audit = summary["leakage"]["by_schedule"]["audit"]
    assert audit["worst_psnr_db"] > 100
    assert audit["worst_psnr_db"] == summary["leakage"]["worst_psnr_db"]
    with Ledger.open_read(out / "ledger.sqlite") as ledger:
        assert ledger.value("SELECT COUNT(*) FROM energy WHERE provenance = 'measured'") == 0
        assert ledger.value("SELECT COUNT(DISTINCT update_uid) FROM energy") == 7
        assert ledger.value("SELECT COUNT(DISTINCT update_uid) FROM scores") == 7


def stay_away(process: subprocess.Popen[str], part: str, *, gone: psutil.Process, seconds: float) -> None:
    """Holds a party that was started again: a device is back in less than a round's deadline."""
    deadline = time.monotonic() + 30.0
    while not (new := [p for p in parties(process, part) if p.pid != gone.pid]):
        assert time.monotonic() < deadline, "it was not started again"
        time.sleep(0.02)
    new[0].suspend()
    time.sleep(seconds)
    new[0].resume()


def test_a_killed_device_misses_its_round_and_comes_back(study_file: StudyFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = study_file(rounds=30, local_steps=3 * LONG, deadline_s=2.5, attack='attacks = ["ratio"]')
    with running(study, out) as process:
        wait_for(process, out, lambda p: p.round >= 3)
        (victim,) = parties(process, "device-001.toml")
        victim.kill()
        stay_away(process, "device-001.toml", gone=victim, seconds=4.0)
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    with Ledger.open_read(out / "ledger.sqlite") as ledger:
        missed = ledger.value(
            "SELECT MIN(round) FROM rounds r WHERE closed = 'deadline' AND admitted >= 1 AND NOT EXISTS "
            "(SELECT 1 FROM updates u WHERE u.round = r.round AND u.node = 'device-001' AND u.status = 'admitted')"
        )
        assert missed is not None
        back = ledger.value(
            "SELECT COUNT(*) FROM updates WHERE status = 'admitted' AND node = 'device-001' AND round > ? AND epoch > "
            "(SELECT MIN(epoch) FROM updates WHERE node = 'device-001')",
            missed,
        )
        assert back > 0
    updates = json.loads((out / "summary.json").read_text())["updates"]
    assert (updates["lost"], updates["duplicated"], updates["unscored"]) == (0, 0, 0)


def test_an_interrupted_run_resumes_where_it_stopped(study_file: StudyFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = study_file(rounds=20, local_steps=LONG, attack='attacks = ["ratio"]')
    with running(study, out) as process:
        wait_for(process, out, lambda p: p.round >= 5)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "go on where it stopped" in output
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    with Ledger.open_read(out / "ledger.sqlite") as ledger:
        reached = ledger.value("SELECT MAX(version) FROM models")
        stopped_in = ledger.value("SELECT MAX(round) FROM rounds")
        hashes = {row["version"]: row["sha256"] for row in ledger.rows("SELECT version, sha256 FROM models")}
    assert 4 <= reached < 20
    done = spikeleak("run", str(study), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    with Ledger.open_read(out / "ledger.sqlite") as ledger:
        assert ledger.value("SELECT COUNT(*) FROM sessions") == 2
        second = ledger.rows("SELECT DISTINCT round FROM rounds WHERE epoch = 2 ORDER BY round")
        assert next(row["round"] for row in second) in {stopped_in, stopped_in + 1}
        after = {row["version"]: row["sha256"] for row in ledger.rows("SELECT version, sha256 FROM models")}
    assert all(after[version] == sha256 for version, sha256 in hashes.items())
    assert max(after) == 20
    updates = json.loads((out / "summary.json").read_text())["updates"]
    assert (updates["lost"], updates["duplicated"]) == (0, 0)


@pytest.mark.parametrize("broker", brokers())
def test_a_killed_broker_is_started_again_and_nothing_is_lost(
    study_file: StudyFile, tmp_path: Path, broker: str
) -> None:
    out = tmp_path / "out"
    study = study_file(rounds=20, local_steps=LONG, broker=broker, attack='attacks = ["ratio"]')
    with running(study, out) as process:
        wait_for(process, out, lambda p: p.round >= 3)
        (victim,) = parties(process, "mosquitto.conf" if broker == "mosquitto" else "deploy.broker")
        victim.kill()
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert "starting it again" in output
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rounds"], summary["starts"]) == (21, 1)
    assert (summary["updates"]["lost"], summary["updates"]["duplicated"]) == (0, 0)
    assert summary["leakage"]["unscored"] == 0


@pytest.mark.parametrize("broker", brokers())
def test_a_killed_run_leaves_no_process_behind(study_file: StudyFile, tmp_path: Path, broker: str) -> None:
    out = tmp_path / "out"
    study = study_file(rounds=20, local_steps=LONG, broker=broker, attack='attacks = ["ratio"]')
    with running(study, out) as process:
        wait_for(process, out, lambda p: p.round >= 2)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 6
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def test_folders_where_a_run_is_started_do_not_stand_before_the_program(tmp_path: Path) -> None:
    folder = tmp_path / "my work ü"
    (folder / "edge_client").mkdir(parents=True)
    (folder / "edge_client" / "__init__.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [sys.executable, "-m", "edge_client", "--help"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=module_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usage: spikeleak-client" in done.stdout


def test_more_devices_than_samples_are_refused_before_anything_starts(study_file: StudyFile, tmp_path: Path) -> None:
    study = study_file()
    study.write_text(study.read_text().replace("clients = 3", "clients = 2000", 1))
    message = one_message(spikeleak("run", str(study), "--out", str(tmp_path / "out")), 2)
    assert "2000 devices" in message
    assert "'digits'" in message
    assert not (tmp_path / "out").exists()


def test_a_damaged_ledger_is_one_clear_message(study_file: StudyFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ledger.sqlite").write_bytes(b"no ledger at all" * 1000)
    message = one_message(spikeleak("report", str(out)), 1)
    assert "ledger.sqlite" in message
    assert "not a database" in message


def one_message(done: subprocess.CompletedProcess[str], status: int) -> str:
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('name = "x"\nrouns = 3\n[[schedule]]\n', ["study.toml", "unknown key 'rouns'", "allowed here", "schedule"]),
        ('name = "x"\n[task]\ndatset = "digits"\n[[schedule]]\n', ["'task.datset'", "did you mean 'dataset'"]),
        ('name = "x"\n[task]\ndataset = "digit"\n[[schedule]]\n', ["task.dataset", "'digit'", "digits", "mnist5k"]),
        ('name = "x"\n[[schedule]]\nbatch_size = 0\n', ["schedule[0].batch_size", "= 0", ">= 1"]),
        ('name = "x"\nclients = 2\n[[schedule]]\nclients = 3\n', ["schedule[0].clients = 3", "clients = 2"]),
        ('name = "x"\n', ["study.toml", "schedule"]),
        ('name = "a/b"\n[[schedule]]\n', ["name = 'a/b'", "letters"]),
        (f'name = "{"x" * 60}"\n[[schedule]]\n', ["study.toml: name", "1 to 48"]),
        ('name = "x"\n[[schedule]]\nalgorithm = "fedsgd"\nlocal_steps = 3\n', ["local_steps = 3", "fedsgd"]),
        ('name = "x"\n[attack]\nattacks = ["ratoi"]\n[[schedule]]\n', ["attack.attacks", "'ratoi'", "ratio"]),
        ('name = "x"\n[devices]\nlpips = "no.onnx"\n[[schedule]]\n', ["devices.lpips", "no.onnx", "no such file"]),
        ('name = "x"\nrepeat = 0\n[[schedule]]\n', ["repeat", "1"]),
        ('name = "x"\n[devices]\nengine = "tensorflow"\n[[schedule]]\n', ["devices.engine", "'tensorflow'", "torch"]),
        ('name = "x"\n[devices]\nmeter = "vibes"\n[[schedule]]\n', ["devices.meter", "'vibes'", "rapl"]),
    ],
)
def test_a_mistake_in_a_study_is_one_clear_message(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    message = one_message(spikeleak("run", str(path), "--out", str(tmp_path / "out")), 2)
    assert all(part in message for part in parts), message
    assert not (tmp_path / "out" / "ledger.sqlite").exists()


def test_an_unreachable_broker_is_the_environments_fault(study_file: StudyFile, tmp_path: Path) -> None:
    port = free_port()
    study = study_file()
    study.write_text(study.read_text().replace('kind = "auto"', f'kind = "external"\nport = {port}'))
    message = one_message(spikeleak("run", str(study), "--out", str(tmp_path / "out")), 1)
    assert f"127.0.0.1:{port}" in message


def test_a_busy_port_is_the_environments_fault(study_file: StudyFile, tmp_path: Path) -> None:
    study = study_file()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        study.write_text(study.read_text().replace('kind = "auto"', f'kind = "auto"\nport = {port}'))
        message = one_message(spikeleak("run", str(study), "--out", str(tmp_path / "out")), 1)
    assert f"broker.port = {port}" in message


def test_an_output_folder_that_cannot_be_written_is_named(study_file: StudyFile, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/sys/spikeleak")  # read-only even for root
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        folder = tmp_path / "locked" / "out"
    message = one_message(spikeleak("run", str(study_file()), "--out", str(folder)), 1)
    assert str(folder) in message


def test_a_folder_with_another_run_or_other_files_is_left_alone(study_file: StudyFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    message = one_message(spikeleak("run", str(study_file()), "--out", str(out)), 2)
    assert "not empty" in message
    assert (out / "thesis.tex").read_text() == "precious"


def test_two_runs_never_share_a_folder(study_file: StudyFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = study_file(rounds=20, local_steps=LONG, attack='attacks = ["ratio"]')
    with running(study, out) as process:
        wait_for(process, out, lambda p: p.round >= 1)
        message = one_message(spikeleak("run", str(study), "--out", str(out)), 1)
        assert "another run" in message
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("command", "status", "part"),
    [
        (["run", "missing.toml"], 2, "missing.toml: no such file"),
        (["report", "/nowhere"], 2, "/nowhere"),
        (["server", "missing.toml"], 2, "no such file"),
        (["client", "missing.toml"], 2, "no such file"),
        (["attack", "missing.toml"], 2, "no such file"),
        (["meter", "--meter", "vibes"], 2, "vibes"),
        (["data", "fetch", "imagenet"], 2, "imagenet"),
    ],
)
def test_every_command_refuses_what_is_not_there(command: list[str], status: int, part: str) -> None:
    assert part in one_message(spikeleak(*command), status)

"""A sweep of real runs: plain, killed and resumed, and on a cluster that loses a node; the table stays the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress

import psutil
import pytest
import tomli_w

from deploy import parquet
from deploy.study import STUDIES
from deploy.sweep.plan import load_sweep, points
from deploy.sweep.table import TIMED
from server.progress import read_progress

SWEEP = """
name = "tiny"
target_accuracy = 0.2
[study]
clients = 2
[study.task]
dataset = "digits"
encoding = { kind = "direct", steps = 4 }
model = { hidden = [16] }
[study.devices]
radio_mbit_s = 20.0
[study.attack]
attacks = ["label", "ratio"]
noise_controls = 1
[[study.schedule]]
kind = "train"
local_steps = 5
learning_rate = 0.2
[[study.schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
[[axes]]
key = "task.neuron.surrogate"
values = ["atan", "fast_sigmoid"]
"""
LIMIT_S = 240.0


def command(folder, *more):
    return [
        sys.executable,
        "-m",
        "deploy.cli",
        "sweep",
        str(folder / "sweep.toml"),
        "--out",
        str(folder / "out"),
        *more,
    ]


def prepared(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.toml").write_text(SWEEP)
    return folder


def tables(folder):
    """Both tables without what hangs on the clock or on a device's random names."""
    runs, attacks = (parquet.read(folder / "out" / f"{name}.parquet") for name in ("sweep", "attacks"))
    for row in runs:
        for name in TIMED:
            del row[name]
    for row in attacks:
        del row["seconds"], row["update"]
    return runs, sorted(attacks, key=str)


def differing(found, expected):
    """What differs, by place and column."""
    assert [len(rows) for rows in found] == [len(rows) for rows in expected]
    pairs = [pair for tables in zip(found, expected, strict=True) for pair in zip(*tables, strict=True)]
    return [(i, key, a[key], b[key]) for i, (a, b) in enumerate(pairs) for key in b if a[key] != b[key]]


def run(folder, *more):
    done = subprocess.run(command(folder, *more), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = prepared(tmp_path_factory.mktemp("plain"))
    assert "2/2 runs finished" in run(folder)
    return folder


@pytest.fixture(scope="module")
def plain(plain_folder):
    return tables(plain_folder)


@pytest.mark.slow
def test_a_sweep_of_two_runs_gives_both_tables(plain):
    runs, attacks = plain
    assert [row["axis.task.neuron.surrogate"] for row in runs] == ["atan", "fast_sigmoid"]
    for row in runs:
        assert row["outcome"] == "finished"
        assert (row["lost"], row["duplicated"], row["updates"], row["audited"]) == (0, 0, 4, 2)
        assert row["worst_attack"] == "ratio"
        assert row["worst_psnr_db"] > 100
        assert row["exact_updates"] == 2
        assert row["energy_provenance"] == "modelled"
        assert row["compute_j"] > 0
        assert (row["noise_updates"], row["noise_certified"]) == (1, 0)
        assert 0 < row["noise_max_db"] < 20
    assert len(attacks) == 2 * 2 * 2


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_with_the_same_table(plain, tmp_path):
    folder = prepared(tmp_path)
    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(command(folder, "--parallel", "1"), stdout=log, stderr=log)
    began_s = time.monotonic()
    while len(list((folder / "out" / "runs").glob("*/ledger.sqlite"))) < 2 and first.poll() is None:
        assert time.monotonic() - began_s < LIMIT_S, (tmp_path / "first.log").read_text()
        time.sleep(0.05)
    assert first.poll() is None, (tmp_path / "first.log").read_text()  # the second run is under way
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").glob("*/summary.json")}
    assert len(kept) == 1
    run(folder)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert differing(tables(folder), plain) == []


class Cluster:
    """Two nodes; what tasks leave behind would lie in `scratch`, and name it."""

    def __init__(self, folder):
        self.scratch, self._log = folder / "scratch", folder / "cluster.log"
        self.scratch.mkdir()
        places = {"TMPDIR": str(self.scratch), "RAY_TMPDIR": "/tmp"}  # Ray's sockets need short paths
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray_cluster"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | places,
            )

    def __enter__(self):
        said = self._process.stdout.readline().decode().split()
        assert len(said) == 3, self._log.read_text()
        self.address, self.head, self.second = said
        return self

    def __exit__(self, *_):
        with self._process:
            self._process.stdin.close()

    def begin(self, folder):
        with (folder / "sweep.log").open("wb") as log:
            return subprocess.Popen(command(folder, "--cluster", self.address), stdout=log, stderr=log)

    def lose_second(self):
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"lost\n"

    def processes(self):
        """Of tasks and all that runs under them, each with its first argument after the module: `run`, `attack` …"""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(str(self.scratch) in word for word in words):
                found.append((words[words.index("-m") + 2] if "-m" in words else words[0], process))
        return found

    def attackers(self):
        return [process for kind, process in self.processes() if kind == "attack"]

    def joined(self):
        """An attacker that has reached its broker."""
        for process in self.attackers():
            with suppress(psutil.NoSuchProcess):
                if any(connection.status == "ESTABLISHED" for connection in process.net_connections()):
                    return process
        return None

    def admitted(self):
        """Updates of the run at work."""
        found = [read_progress(path.parent) for path in self.scratch.glob("*/out/ledger.sqlite")]
        return sum(progress.admitted for progress in found if progress is not None)


def eventually(look, log, timeout_s=LIMIT_S):
    end_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.02)
    return found


def jobs_of(folder):
    """Jobs of each run, in the order in which the runs ended."""
    paths = sorted((folder / "out" / "runs").glob("*/jobs.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
def test_a_cluster_of_two_nodes_that_loses_one_gives_the_same_table(plain, tmp_path):
    folder, log = prepared(tmp_path), tmp_path / "sweep.log"
    with Cluster(tmp_path) as cluster:
        sweep = cluster.begin(folder)
        eventually(lambda: jobs_of(folder), log)  # the first run is over, the second one's attacker joins
        attacker = eventually(cluster.joined, log)
        attacker.suspend()  # with what it has been given and what it will be
        eventually(lambda: cluster.admitted() == 4, log)
        cluster.lose_second()
        attacker.resume()
        attacker.wait(30)
        assert sweep.wait(LIMIT_S) == 0, log.read_text()
        first, second = jobs_of(folder)
        assert not cluster.processes()
        for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
            again = prepared(tmp_path / number.name)
            sweep = cluster.begin(again)
            eventually(cluster.attackers, again / "sweep.log")
            sweep.send_signal(number)
            assert sweep.wait(60) == status, (again / "sweep.log").read_text()
            eventually(lambda: not cluster.processes(), again / "sweep.log", 30.0)
        assert not list(
            cluster.scratch.glob("spikeleak-*")
        )  # a task takes along what killed ones have left on its node
    assert differing(tables(folder), plain) == []
    assert [(job["node"], job["ended"]) for job in first["attack_jobs"]] == [(cluster.second, "finished")]
    assert [(job["node"], job["ended"]) for job in second["attack_jobs"]] == [
        (cluster.second, "lost"),
        (cluster.head, "finished"),
    ]
    assert {run["run"]["node"] for run in (first, second)} == {cluster.head}
    tasks = [task["task"] for run in (first, second) for task in (run["run"], *run["attack_jobs"])]
    assert len(set(tasks)) == 5
    journals = [path.read_text().splitlines() for path in (folder / "out" / "runs").glob("*/attack/attack.jsonl")]
    attacked = sorted(len({json.loads(line)["update_uid"] for line in lines}) for lines in journals)
    assert attacked[0] >= 1  # what the lost one had not answered
    assert attacked[1] == 4


def printed(*arguments):
    done = subprocess.run([sys.executable, "-m", "deploy.cli", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_a_ledger_is_exported_and_what_it_used_is_cited(plain_folder):
    one = next((plain_folder / "out" / "runs").glob("*/"))
    written = [line for line in printed("export", str(one)).splitlines() if line.endswith(".parquet")]
    assert len(written) == len(list((one / "export").glob("*.parquet"))) > 10
    updates = parquet.read(one / "export" / "updates.parquet")
    assert len(updates) == 4
    assert {row["status"] for row in updates} == {"admitted"}
    assert "object" not in updates[0]
    energy = parquet.read(one / "export" / "energy.parquet")
    assert all((row["energy_j"] is None) == (row["provenance"] == "unavailable") for row in energy)
    entries = printed("cite", str(plain_folder / "out"))
    assert "zhao2020idlg" in entries  # of `label`
    assert "mcmahan2017communication" in entries  # of the mean
    assert "nguyen2022federated" not in entries  # of rounds that were synchronous
    assert "ren2022grnn" not in entries  # of an attack that was not run
    keys = re.findall(r"^@\w+\{([^,]+),$", entries, flags=re.MULTILINE)
    assert len(set(keys)) == len(keys)
    spiking = {"eshraghian2023training", "neftci2019surrogate", "fang2021incorporating", "zenke2018superspike"}
    quantised = {"jacob2018quantization", "bengio2013estimating"}
    attacked = {
        "spikeleak",
        "aksu2025privacy",
        "zhao2020idlg",
        "wainakh2022user",
        "phong2018privacy",
        "geiping2020inverting",
        "wang2004image",
        "jonker1987shortest",
    }
    spent = {"yik2025neurobench", "yin2023sata", "horowitz2014computing", "kaup2014powerpi"}
    learnt = {"mcmahan2017communication", "alpaydin1998optical"}
    assert set(keys) == spiking | quantised | attacked | spent | learnt
    page = (plain_folder / "out" / "report.html").read_text()
    assert f"comes from {len(keys)} works" in page
    assert all(f"{{{key}," in page for key in keys)


@pytest.mark.slow
def test_a_report_of_runs_that_are_not_the_sweeps_changes_nothing(plain_folder, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(plain_folder / "out", folder)
    for run_folder in list((folder / "runs").iterdir()):
        run_folder.rename(run_folder.with_name(run_folder.name[::-1]))
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    asked = [sys.executable, "-m", "deploy.cli", "report", str(folder)]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "none of its 2 runs" in ended.stderr
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


@pytest.mark.slow
def test_its_report_stands_alone_and_shows_the_worst_pictures(plain_folder):
    page = (plain_folder / "out" / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\((?!#)|@import|<script""", page)
    reached = sum(row["joules_to_target"] is not None for row in parquet.read(plain_folder / "out" / "sweep.parquet"))
    assert page.count('class="card"') == 2 * (2 + reached)  # each configuration in each front, in both widths
    assert page.count("data:image/png") >= 2 * 2 * 2
    assert "4 audited updates: of 4 of these" in page
    assert re.search(r"none of \d+ attacks on noise certified anything", page)
    assert re.search(r"reach a median of \d+\.\d dB \(scored, n = 2 noise updates", page)
    printed("report", str(plain_folder / "out"))
    assert (plain_folder / "out" / "report.html").read_text() == page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["defences", "energy_vs_privacy", "first_layer", "snn_vs_ann"])
def test_a_shipped_sweep_in_short(tmp_path, name):
    """The first choice of each axis, fewer and smaller rounds, the cheap part of the ladder; all else as it ships."""
    shipped = tomllib.loads((STUDIES / f"{name}.toml").read_text())
    assert len(points(load_sweep(STUDIES / f"{name}.toml"), STUDIES / f"{name}.toml")) > 3
    study = shipped["study"]
    shipped["seeds"] = [1]
    study["clients"] = 2
    study["task"]["dataset"] = "digits"
    study["attack"]["attacks"] = ["label", "ratio", "row_space_enumeration"]
    for entry in study["schedule"]:
        entry |= {"rounds": 1}
    for axis in shipped["axes"]:
        axis["choices"] = axis["choices"][:1]
    (tmp_path / "sweep.toml").write_text(tomli_w.dumps(shipped))
    run(tmp_path)
    rows = parquet.read(tmp_path / "out" / "sweep.parquet")
    assert [row["arm"] for row in rows] == (["main", "twin"] if name == "snn_vs_ann" else ["main"])
    for row in rows:
        assert (row["outcome"], row["lost"], row["duplicated"], row["audited"]) == ("finished", 0, 0, 2)
        assert row["worst_psnr_db"] > 100  # direct coding, one sample
    page = (tmp_path / "out" / "report.html").read_text()
    assert shipped["title"] in page
    assert ("SNN beside its ANN twin" in page) == (name == "snn_vs_ann")
    if name == "snn_vs_ann":
        assert "does not hold under the ladder in 1 of 1 networks: MNIST, dense, direct (100.0" in page
        networks = parquet.read(tmp_path / "out" / "networks.parquet")
        assert [(row["family"], row["updates"]) for row in networks] == [("snn", 2), ("ann", 2)]
        assert networks[0]["exact"] > 0
        assert [row["dataset"] for row in parquet.read(tmp_path / "out" / "baselines.parquet")] == ["digits"]

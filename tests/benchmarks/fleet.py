"""Fleets on one machine: 200 virtual devices, 20 device processes, 1,000 virtual devices; each by `spikeleak run`.

python -m tests.benchmarks.fleet [CASE …] [--rounds N]

FC 784-256-10, spiking, T = 10, rate coding, MNIST digits, one local step of batch 16, int8 updates. No attacker runs: a
thousand updates a round are more than any attacks; what the attacker takes is in its own benchmarks. Memory is of the
whole tree of processes: command line, broker, server, devices.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from server.ledger import FILE_NAME, Ledger
from tests.benchmarks import processes
from tests.conftest import ROOT

STUDY = """
name = "{name}"
clients = {clients}

[task]
dataset = "mnist5k"

[task.encoding]
kind = "rate"
steps = 10

[task.model]
hidden = [256]
weight_bits = 32

[devices]
per_process = {per_process}
seed = 1

[attack]
attacks = []

[server]
drain_s = 30.0
evaluate = false

[[schedule]]
kind = "train"
rounds = {rounds}
algorithm = "fedavg"
local_steps = 1
batch_size = 16
learning_rate = 0.1
codec = "{codec}"
deadline_s = 600.0
"""
LIMIT_S = 1800.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One fleet."""

    clients: int
    per_process: int
    rounds: int


CASES = {
    "200-virtual": Case(clients=200, per_process=100, rounds=10),
    "20-processes": Case(clients=20, per_process=1, rounds=10),
    "1000-virtual": Case(clients=1000, per_process=500, rounds=3),
}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run took.

    Attributes:
        start_s: From the command to the opening of the first round.
        round_s: Mean time from one round's opening to the next one's.
        rounds: Rounds that closed with an update of every device.
    """

    start_s: float
    round_s: float
    rounds: int
    admitted: int
    lost: int
    tree: processes.Tree


def measured(name: str, case: Case, folder: Path, *, codec: str = "int8") -> Run:
    """Runs a fleet as a user would.

    Raises:
        RuntimeError: The run failed.
    """
    path, out = folder / f"{name}.toml", folder / name
    path.write_text(STUDY.format(name=name, codec=codec, **msgspec.structs.asdict(case)))
    command = [sys.executable, "-m", "deploy.cli", "run", str(path), "--out", str(out)]
    tree = processes.run(command, folder / f"{name}.log", env=os.environ, cwd=ROOT, timeout_s=LIMIT_S)
    summary = json.loads((out / "summary.json").read_text())
    began_wall = (out / "config.toml").stat().st_mtime
    with Ledger.open_read(out / FILE_NAME) as ledger:
        sql = "SELECT opened_wall, duration_s, admitted FROM rounds WHERE closed IS NOT NULL ORDER BY round, attempt"
        rows = ledger.rows(sql)
    opened = [row["opened_wall"] for row in rows]
    last_wall = opened[-1] + rows[-1]["duration_s"]
    return Run(
        start_s=opened[0] - began_wall,
        round_s=(last_wall - opened[0]) / len(rows),
        rounds=sum(row["admitted"] == case.clients for row in rows),
        admitted=summary["updates"]["admitted"],
        lost=summary["updates"]["lost"],
        tree=tree,
    )


def line(name: str, case: Case, run: Run) -> str:
    """One result in one line, with whether what is promised holds."""
    holds = run.rounds == case.rounds and run.lost == 0
    return (
        f"{name}: {run.rounds} of {case.rounds} rounds closed with all {case.clients} updates, {run.lost} lost "
        f"({'holds' if holds else 'DOES NOT HOLD'}); start {run.start_s:.1f} s, {1 / run.round_s:.2f} rounds/s "
        f"({run.round_s:.2f} s each), {run.tree.processor_s:.0f} processor s in {run.tree.wall_s:.0f} s; peak of "
        f"all {run.tree.processes} processes {run.tree.peak_rss_mb:.0f} MB RSS, {run.tree.peak_pss_mb:.0f} MB PSS"
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs the cases and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all when left out")
    parser.add_argument("--rounds", type=int)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as text:
        for name in chosen.cases or CASES:
            case = CASES[name]
            if chosen.rounds:
                case = msgspec.structs.replace(case, rounds=chosen.rounds)
            print(line(name, case, measured(name, case, Path(text))), flush=True)


if __name__ == "__main__":
    main()

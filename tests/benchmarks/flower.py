"""The same federated spiking network by Flower's simulation engine and by `spikeleak run`, in turn, in one run.

python -m tests.benchmarks.flower [--clients 20 100] [--rounds N] [--pairs N] [--environment DIR]

Same network (784-256-10, LIF, T = 10), data (MNIST digits dealt evenly), clients, local step (SGD, batch 16), FedAvg
over all clients; nobody evaluates. Each is started as its users start it: Flower by `run_simulation` over Ray with one
processor a client and snntorch's own layers (`flower_app`), ours by a study with virtual devices, one process a core,
updates as int8 (`--codec fp32` sends floats, as Flower does) and a server that keeps every update in its ledger.

Flower and Ray go into an environment of their own (a cache folder; `PIP_ARGS` is honoured), which sees this one's torch
and snntorch. The start is stated beside the rate, never in it: rates are over the rounds after the first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import msgspec

from contract.datasets import load
from contract.datasets.cache import data_dir
from tests.benchmarks import fleet, processes

REQUIREMENT = "flwr[simulation]==1.42.0"
FASTER, MEMORY = 5.0, 1 / 3
LIMIT_S = 1800.0


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of one side took; `processor_s` is a round's, of all processes, start and end included."""

    start_s: float
    round_s: float
    processor_s: float
    rss_mb: float
    pss_mb: float


def cache() -> Path:
    """Where environments of peers are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "spikeleak-benchmarks"


def environment(folder: Path) -> Path:
    """An environment with Flower, made when it is not there; its Python.

    Raises:
        RuntimeError: pip could not install it here; says its last line.
    """
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == REQUIREMENT:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    extra = shlex.split(os.environ.get("PIP_ARGS", ""))
    done = subprocess.run([*pip, *extra, REQUIREMENT], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    (site,) = (folder / "lib").glob("python3*/site-packages")
    (site / "torch_of_the_caller.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    stamp.write_text(REQUIREMENT)
    return python


def dataset(folder: Path) -> tuple[Path, Path]:
    """The samples as files that both sides read."""
    data = load("mnist5k")
    cached = data_dir() / "mnist5k.x.npy", data_dir() / "mnist5k.y.npy"
    if all(path.exists() for path in cached):
        return cached
    import numpy as np

    paths = folder / "x.npy", folder / "y.npy"
    np.save(paths[0], data.x)
    np.save(paths[1], data.y)
    return paths


def by_flower(python: Path, clients: int, rounds: int, folder: Path) -> Side:
    """One run of Flower.

    Raises:
        RuntimeError: It failed, or clients did.
    """
    x, y = dataset(folder)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "FLWR_TELEMETRY_ENABLED": "0"}
    env |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "flower_app", str(clients), str(rounds), str(x), str(y)]
    tree = processes.run(command, folder / "flower.log", env=env, cwd=folder, timeout_s=LIMIT_S)
    whole = f"Received {clients} results and 0 failures"
    if tree.output.count(whole) != rounds:
        raise RuntimeError(f"not every client answered in every round: {tree.output[-2000:]}")
    at_s = [json.loads(text)["at_s"] for text in tree.output.splitlines() if text.startswith('{"round"')]
    return Side(
        start_s=tree.wall_s - (at_s[-1] - at_s[1]),
        round_s=(at_s[-1] - at_s[1]) / (rounds - 1),
        processor_s=tree.processor_s / rounds,
        rss_mb=tree.peak_rss_mb,
        pss_mb=tree.peak_pss_mb,
    )


def by_us(clients: int, rounds: int, folder: Path, codec: str) -> Side:
    """One run of ours."""
    cores = len(os.sched_getaffinity(0))
    case = fleet.Case(clients=clients, per_process=max(2, math.ceil(clients / cores)), rounds=rounds)
    run = fleet.measured(f"ours-{clients}", case, Path(tempfile.mkdtemp(dir=folder)), codec=codec)
    if run.rounds != rounds or run.lost:
        raise RuntimeError(f"{run.rounds} of {rounds} rounds closed with all updates, {run.lost} lost")
    return Side(
        start_s=run.tree.wall_s - run.round_s * rounds,
        round_s=run.round_s,
        processor_s=run.tree.processor_s / rounds,
        rss_mb=run.tree.peak_rss_mb,
        pss_mb=run.tree.peak_pss_mb,
    )


def _said(name: str, side: Side) -> str:
    return (
        f"  {name}: {1 / side.round_s:.2f} rounds/s ({side.round_s:.3f} s), {side.processor_s:.2f} processor seconds a "
        f"round, start and end {side.start_s:.1f} s, peak {side.rss_mb:.0f} MB RSS, {side.pss_mb:.0f} MB PSS"
    )


def _verdict(holds: bool) -> str:  # noqa: FBT001 - one value, one word
    return "holds" if holds else "DOES NOT HOLD"


def compare(python: Path, clients: int, rounds: int, count: int, codec: str) -> None:
    """Pairs of runs, and the medians of their ratios."""
    pairs: list[tuple[Side, Side]] = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as text:
            ours, theirs = by_us(clients, rounds, Path(text), codec), by_flower(python, clients, rounds, Path(text))
        pairs.append((ours, theirs))
        print(f"{clients} clients, {rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(f"{_said('spikeleak', ours)}\n{_said('Flower   ', theirs)}", flush=True)

    def median(name: str) -> float:
        return statistics.median(getattr(theirs, name) / getattr(ours, name) for ours, theirs in pairs)

    faster, rss, pss = median("round_s"), 1 / median("rss_mb"), 1 / median("pss_mb")
    print(
        f"{clients} clients, median of {count} pairs: rounds per second {faster:.1f}× Flower's (at least {FASTER:g}: "
        f"{_verdict(faster >= FASTER)}), {median('processor_s'):.1f}× fewer processor seconds, memory {rss:.2f} of "
        f"Flower's RSS and {pss:.2f} of its PSS (at most {MEMORY:.2f}: {_verdict(max(rss, pss) <= MEMORY)})",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Installs Flower if it is not there, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--environment", type=Path, default=cache() / "flower")
    chosen = parser.parse_args(arguments)
    try:
        python = environment(chosen.environment)
    except RuntimeError as error:
        print(f"Flower: not measured, cannot be installed here ({error})")
        return
    for clients in chosen.clients:
        compare(python, clients, chosen.rounds, chosen.pairs, chosen.codec)


if __name__ == "__main__":
    main()

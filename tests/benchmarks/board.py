"""What a board's whole client takes: memory, time to the first update, disk, imports. One line each, with its limit.

python -m tests.benchmarks.board [--runs N] [--no-install]

The client is the real one, `edge_client.app.main`, as a process of its own against a mosquitto on the loopback
interface; this process plays the server. It imports, connects, fetches graph and model, loads its part of MNIST from
the official archives (`SPIKELEAK_DATA`), makes 30 training steps of 784-256-10 (rate, T = 10, batch 16) and publishes
the update as int8. Installs go to virtual environments that are thrown away.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from contract import topics
from contract.codecs import encode_tensors
from contract.datasets import dataset_info, on_disk
from contract.frames import Assembler, split
from contract.link import Link, LinkSettings
from contract.messages import GraphRecord, Model, ServerState, TaskManifest, encode, pack
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec, task_hash
from deploy import broker
from server.export import training_graph

ROOT = Path(__file__).resolve().parents[2]
RUN, NODE, SHARDS = "board", "pi-1", 8
PLAN = RoundPlan(local_steps=30, batch_size=16, learning_rate=0.1, momentum=0.9, codec="int8")
PEAK_MB, FIRST_UPDATE_S, INSTALL_MB = 110, 3.0, 175
LIMIT_S = 60.0

CLIENT = """
import sys, time
from edge_client.app import main
status = main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
waited_s = int(open("/proc/self/schedstat").read().split()[1]) / 1e9
heavy = {"torch", "scipy", "pandas", "sympy"}
print(peak, time.process_time(), waited_s, *sorted({m.split(".")[0] for m in sys.modules} & heavy))
sys.exit(status)
"""


def task_of(dataset: str) -> TaskSpec:
    """784-256-10 on rate-coded input, weights in 8 bits."""
    return TaskSpec(dataset=dataset, encoding=EncodingSpec(kind="rate", steps=10), model=ModelSpec(hidden=(256,)))


class Server:
    """Publishes one open round and waits for its update."""

    def __init__(self, link: LinkSettings, task: TaskSpec) -> None:
        self._heard: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._link = Link(link, "bench", on_message=lambda topic, payload: self._heard.put((topic, payload)))
        self._link.subscribe(*topics.subscriptions("server", RUN))
        self._link.start()
        info = dataset_info(task.dataset)
        graph = training_graph(task, tuple(info.shape), info.classes)
        record = GraphRecord(name="training", sha256=hashlib.sha256(graph).hexdigest(), nbytes=len(graph))
        parameters = initial_parameters(task, info.shape, info.classes)
        records, buffers = encode_tensors("fp32", parameters, np.random.default_rng(0))
        model = pack(Model(version=0, task_hash=task_hash(task), tensors=records), buffers)
        for i, frame in enumerate(split(graph, record.sha256[:32])):
            self._say(topics.graph_chunk(RUN, "training", i), frame)
        for i, frame in enumerate(split(model, "0" * 32)):
            self._say(topics.model_chunk(RUN, 0, i), frame)
        manifest = TaskManifest(run=RUN, task=task, task_hash=task_hash(task), graphs=(record,))
        self._say(topics.task_manifest(RUN), encode(manifest))
        self._state = ServerState(
            run=RUN,
            status="open",
            epoch=1,
            round=1,
            attempt=1,
            plan=PLAN,
            model_sha256=hashlib.sha256(model).hexdigest(),
            task_hash=task_hash(task),
            selected=(NODE,),
        )
        self._say(topics.server_state(RUN), encode(self._state))

    def _say(self, topic: str, payload: bytes) -> None:
        assert self._link.publish(topic, payload, retain=True)

    def update(self) -> int:
        """Waits for a whole update; its bytes."""
        assembler = Assembler()
        end_s = time.monotonic() + LIMIT_S
        while time.monotonic() < end_s:
            topic, payload = self._heard.get(timeout=LIMIT_S)
            whole = assembler.add(payload) if topics.parse(topic).kind == "up" else None
            if whole is not None:
                return len(whole.blob)
        raise TimeoutError("no update came")

    def stop(self) -> None:
        """Leaves the broker."""
        self._link.stop()


def one_client(python: Path, link: LinkSettings, task: TaskSpec, folder: Path) -> dict[str, float]:
    """Starts a client afresh; seconds to its first update and what it had used when it was asked to leave."""
    server = Server(link, task)
    config = folder / "device.toml"
    config.write_text(
        f'run = "{RUN}"\nnode = "{NODE}"\ndirectory = "{folder / "device"}"\nshard = 0\nshards = {SHARDS}\n'
        f'[link]\nhost = "{link.host}"\nport = {link.port}\n'
    )
    began_s = time.monotonic()
    command = [str(python), "-c", CLIENT, str(config), "--log-level", "warning"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=board_environment())
    try:
        update_bytes = server.update()
        first_s = time.monotonic() - began_s
        child.terminate()
        peak_kib, processor_s, waited_s, *heavy = child.communicate(timeout=20)[0].split()
    finally:
        child.kill()
        server.stop()
    if heavy:
        raise RuntimeError(f"the client imported {', '.join(heavy)}")
    return {
        "first_update_s": first_s,
        "processor_s": float(processor_s),
        "waited_s": float(waited_s),
        "peak_mb": int(peak_kib) * 1024 / 1e6,
        "update_bytes": update_bytes,
    }


def board_environment() -> dict[str, str]:
    """One thread, and this project on the path of an environment that does not have it installed."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def client_runs(python: Path, runs: int, dataset: str) -> list[dict[str, float]]:
    """Clients one after another, each with a broker and a folder of its own."""
    found = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as text, broker.serve(broker.BrokerSection(), Path(text)) as running:
            found.append(one_client(python, running.link, task_of(dataset), Path(text)))
    return found


def environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with these packages; its Python.

    Raises:
        RuntimeError: pip could not install them here; says its last line.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    return python


def base_requirements() -> list[str]:
    """What a board installs: the project's own dependencies, without any extra."""
    import tomllib

    text = (ROOT / "pyproject.toml").read_text()
    return list(tomllib.loads(text)["project"]["dependencies"])


def installed_mb(python: Path) -> float:
    """Size of the site-packages of an environment, pip and setuptools aside."""
    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    ours = [p for p in site.iterdir() if not p.name.startswith(("pip", "setuptools", "_distutils", "distutils"))]
    files = [f for p in ours for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file() and not f.is_symlink()]
    return sum(f.stat().st_size for f in files) / 1e6


def import_cost(python: Path, statement: str) -> tuple[float, float]:
    """Median processor seconds and peak megabytes of a process that only imports, over five."""
    program = (
        f"{statement}\nimport time\nused = time.process_time()\n"
        "print(used, next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    found = []
    for _ in range(5):
        done = subprocess.run(
            [str(python), "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=board_environment()
        )
        found.append([float(word) for word in done.stdout.split()])
    seconds, kib = zip(*found, strict=True)
    return statistics.median(seconds), statistics.median(kib) * 1024 / 1e6


def line(what: str, value: float, unit: str, limit: float | None = None) -> None:
    """One result, with its limit and whether it holds."""
    verdict = "" if limit is None else f", at most {limit:g}: {'holds' if value <= limit else 'DOES NOT HOLD'}"
    print(f"{what}: {value:.4g} {unit}{verdict}", flush=True)


def report_client(python: Path, runs: int) -> None:
    """The whole client."""
    dataset = "mnist" if on_disk("mnist") else "mnist5k"
    found = client_runs(python, runs, dataset)
    print(f"whole client on {dataset}, {SHARDS} devices, n = {runs}, update of {found[0]['update_bytes']:.0f} bytes")
    line("peak memory, largest", max(f["peak_mb"] for f in found), "MB", PEAK_MB)
    line("start to first update, median", statistics.median(f["first_update_s"] for f in found), "s", FIRST_UPDATE_S)
    line("its processor time, median", statistics.median(f["processor_s"] for f in found), "s")
    line("its main thread waited for a core, median", statistics.median(f["waited_s"] for f in found), "s")


def main() -> None:
    """All figures. On a busy machine much of the time to the first update is waiting for a core, which is said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-install", action="store_true", help="this environment's client only")
    chosen = parser.parse_args()
    here = Path(sys.executable)
    if chosen.no_install:
        report_client(here, chosen.runs)
        return
    with tempfile.TemporaryDirectory() as text:
        base = environment(Path(text) / "base", *base_requirements())
        report_client(base, chosen.runs)
        line("base install", installed_mb(base), "MB", INSTALL_MB)
        imports = {"base client": (base, "import edge_client.app, edge_client.engines.onnx")}
        imports["torch + snntorch"] = (here, "import torch, snntorch")
        try:
            flower = environment(Path(text) / "flower", "flwr")
            line("Flower install", installed_mb(flower), "MB")
            imports["Flower node"] = (flower, "import flwr.supernode.start_client_internal")
        except RuntimeError as error:
            print(f"Flower: not measured, cannot be installed here ({error})")
        for name, (python, statement) in imports.items():
            seconds, peak_mb = import_cost(python, statement)
            print(f"import of {name}: {seconds:.2f} processor seconds, {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()

"""`make arm64-smoke`: the client's training steps with the released aarch64 wheels, on cores of a Pi, under qemu-user.

Each case is trained here and on each emulated core from the same data and seeds; loss and update have to agree.
A core that executes an instruction it does not have dies by SIGILL, which is a failure, never a skip.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from contract.datasets import dataset_info, load
from contract.encodings import intensities
from contract.errors import SpikeleakError
from contract.models.layout import initial_parameters
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec
from server.export import training_graph
from tests.arm64.guest import Case
from tests.arm64.root import CPUS, Cpu, build, describe, needed

PROJECT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
"""Largest difference of loss and update, relative to the largest element of each tensor."""
FEDAVG = RoundPlan(local_steps=3, batch_size=16, learning_rate=0.1, momentum=0.9)
CONV = ModelSpec(kind="conv", hidden=(), channels=(4, 8), kernel=5, stride=2, weight_bits=None)
CASES = {
    "fc float T=10 B=16": (
        TaskSpec(encoding=EncodingSpec(kind="rate", steps=10), model=ModelSpec(weight_bits=None)),
        FEDAVG,
    ),
    # One gradient: after a step a weight may lie within rounding of a tie and fall to either side.
    "fc int8 weights T=10 B=16": (
        TaskSpec(encoding=EncodingSpec(kind="direct", steps=10)),
        RoundPlan(algorithm="fedsgd", batch_size=16),
    ),
    "fc zero reset T=25 B=1": (
        TaskSpec(
            encoding=EncodingSpec(kind="rate", steps=25),
            model=ModelSpec(weight_bits=None, readout="spike"),
            neuron=NeuronSpec(reset="zero", surrogate="fast_sigmoid"),
        ),
        RoundPlan(algorithm="fedsgd", batch_size=1),
    ),
    "conv T=5 B=4": (
        TaskSpec(encoding=EncodingSpec(kind="direct", steps=5), model=CONV),
        RoundPlan(algorithm="fedsgd", batch_size=4),
    ),
}


def write_case(folder: Path, task: TaskSpec, plan: RoundPlan) -> None:
    """Everything that a guest needs for one case."""
    folder.mkdir(parents=True, exist_ok=True)
    info, data = dataset_info(task.dataset), load(task.dataset)
    params = initial_parameters(task, info.shape, info.classes)
    chosen = np.linspace(0, len(data.x) - 1, 64).astype(int)  # the set is sorted by label
    np.savez(folder / "data.npz", x=intensities(task.encoding, data.x[list(chosen)]), y=data.y[chosen], **params)
    (folder / "case.json").write_bytes(msgspec.json.encode(Case(task=task, plan=plan, classes=info.classes)))
    (folder / "training.onnx").write_bytes(training_graph(task, info.shape, info.classes))


def train_here(folder: Path) -> Path:
    """The case on this machine."""
    out = folder / "here.npz"
    subprocess.run([sys.executable, "-m", "tests.arm64.guest", str(folder), str(out)], check=True, cwd=PROJECT)
    return out


def train_there(folder: Path, root: Path, cpu: Cpu) -> Path | str:
    """The case on an emulated core: its result, or why there is none."""
    out = folder / f"{cpu.name}.npz"
    guest = {"PYTHONPATH": f"{root / 'site'}:{PROJECT}", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    settings = [word for name, value in guest.items() for word in ("-E", f"{name}={value}")]
    qemu = [needed("qemu-aarch64-static", "qemu-user-static"), "-cpu", cpu.name, "-L", str(root), *settings]
    script = [str(root / "usr/bin/python3.11"), "-m", "tests.arm64.guest", str(folder), str(out)]
    done = subprocess.run([*qemu, *script], check=False, capture_output=True, text=True, cwd=PROJECT)
    if done.returncode:
        killed = f"killed by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else "failed"
        return f"{killed}: {''.join(done.stderr.strip().splitlines()[-1:])}"
    return out


def difference(here: Path, there: Path) -> float:
    """Largest relative difference of loss and update tensors; int8 bytes may differ where a value ties."""
    worst = 0.0
    with np.load(here) as a, np.load(there) as b:
        for name in (name for name in a.files if not name.startswith("int8/")):
            scale = max(float(np.abs(a[name]).max()), np.finfo(np.float32).tiny)
            worst = max(worst, float(np.abs(a[name] - b[name]).max()) / scale)
    ours, theirs = (msgspec.json.decode(path.with_suffix(".json").read_bytes()) for path in (here, there))
    return max(worst, abs(ours["loss"] - theirs["loss"]) / abs(ours["loss"]))


def main() -> int:
    """Prints one line per case and core; status 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=PROJECT / "build" / "arm64")
    asked = parser.parse_args()
    try:
        root = build(asked.folder.resolve(), tuple(os.environ.get("PIP_ARGS", "").split()))
        failed = sum(_run(asked.folder.resolve(), root, name) for name in CASES)
    except SpikeleakError as error:
        print(f"arm64-smoke: {error}", file=sys.stderr)
        return 1
    print("all agree" if not failed else f"{failed} of {len(CASES) * len(CPUS)} failed")
    return 1 if failed else 0


def _run(base: Path, root: Path, name: str) -> int:
    folder = base / "cases" / name.replace(" ", "-")
    write_case(folder, *CASES[name])
    here, failed = train_here(folder), 0
    for cpu in CPUS:
        describe(root, cpu)
        found = train_there(folder, root, cpu)
        if isinstance(found, str):
            print(f"{name:28} {cpu.name} ({cpu.board}): {found}", flush=True)
            failed += 1
            continue
        about = msgspec.json.decode(found.with_suffix(".json").read_bytes())
        apart = difference(here, found)
        failed += not apart <= TOLERANCE or about["torch"]
        print(
            f"{name:28} {cpu.name} ({cpu.board}): loss {about['loss']:.6f}, update differs by {apart:.1e} (limit "
            f"{TOLERANCE:.0e}), {about['spikes']} spikes, onnxruntime {about['onnxruntime']} on {about['machine']}",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    raise SystemExit(main())

"""Runs on either machine: the real client's training steps for one case folder. Only what a board has is imported.

python guest.py FOLDER OUT: FOLDER holds `case.json` (task, plan, classes), `data.npz` (x, y, parameters) and
`training.onnx`; OUT gets the update, its loss and the seconds of each local step.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from contract.codecs import encode_tensors
from contract.task import RoundPlan, TaskSpec
from edge_client.engines.onnx import OnnxEngine
from edge_client.training import Shard, local_update, make_receipt


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What one case trains."""

    task: TaskSpec
    plan: RoundPlan
    classes: int


class _Timed:
    """An engine that notes how long each of its gradients took."""

    name = "onnx"

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        self.seconds: list[float] = []

    def gradients(self, params, frames, labels):
        began = time.perf_counter()
        result = self._engine.gradients(params, frames, labels)
        self.seconds.append(time.perf_counter() - began)
        return result

    def emitted(self):
        return self._engine.emitted()


def main(folder: Path, out: Path) -> None:
    case = msgspec.json.decode((folder / "case.json").read_bytes(), type=Case)
    with np.load(folder / "data.npz") as arrays:
        params = {name: arrays[name] for name in arrays.files if name not in {"x", "y"}}
        shard = Shard(x=arrays["x"], y=arrays["y"], classes=case.classes)
    graphs = {"training": (folder / "training.onnx").read_bytes()}
    engine = _Timed(OnnxEngine(case.task, shard.shape, case.classes, graphs))
    receipt = make_receipt(case.task, case.plan, len(shard.x), secret=1, node="pi", round_=1, uid="0" * 32)
    made = local_update(engine, params, task=case.task, plan=case.plan, shard=shard, receipt=receipt)
    records, buffers = encode_tensors("int8", made.tensors, np.random.default_rng(1))
    about = {
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "loss": made.loss,
        "seconds": engine.seconds,
        "int8_bytes": sum(record.nbytes for record in records),
        "spikes": made.operations.spikes,
        "torch": "torch" in sys.modules,
    }
    np.savez(out, **made.tensors, **{f"int8/{r.name}": b for r, b in zip(records, buffers, strict=True)})
    out.with_suffix(".json").write_bytes(msgspec.json.encode(about))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

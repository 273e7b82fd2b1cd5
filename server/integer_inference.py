"""The final model as true int8 inference, beside the fake-quantised network that it was trained as.

`onnxruntime.quantization` replaces each product with a weight by an integer one, dynamically: uint8 activations whose
scale is taken from each batch, int8 weights with a scale per output channel, int32 sums. No calibration data is needed,
and spikes lose nothing: their range [0, 1] puts 0 on 0 and 1 on 255, so that products of spikes and 8-bit or ternary
weights are exact. What rounds is an input that is not binary (direct coding's currents, spikes weighed over time for
readout `membrane`), weights that were trained in float, and int4 grids, whose levels are no multiples of 1/127.

Exact, that is, where the processor sums exactly: x86 without VNNI adds pairs of uint8 times int8 in 16 saturating bits
(onnxruntime's documentation, "Quantize ONNX models", on U8U8); the accuracy found on such a machine says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.task import TaskSpec
from server.aggregation import Parameters
from server.evaluation import Evaluator
from server.ledger import Ledger
from server.model import parameters_of

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

META_KEY = "int8_inference"
"""Where the ledger keeps the last `Int8Inference`, as JSON."""
_LONGEST_REASON = 300


class Int8Inference(msgspec.Struct, frozen=True, kw_only=True):
    """What true int8 inference of one model is like; accuracies are fractions, over the same samples and spikes.

    Attributes:
        accuracy: Of the int8 graph; `None` when there is none.
        bytes: Size of its ONNX file with the parameters in it.
        fake_quantised_accuracy: Of the network as it was trained: float arithmetic, weights on the task's grid.
        float_bytes: Size of the same graph's file with float32 weights.
        integer_layers: Layers that are computed in integers, of `layers`.
        layers: Layers with weights.
        model_version: Which model.
        reason: Why there is no int8 graph; empty when there is one.
    """

    accuracy: float | None = None
    bytes: int | None = None
    fake_quantised_accuracy: float | None = None
    float_bytes: int | None = None
    integer_layers: int | None = None
    layers: int | None = None
    model_version: int | None = None
    reason: str = ""


def int8_inference(
    task: TaskSpec,
    shape: tuple[int, ...],
    classes: int,
    parameters: Parameters,
    batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]],
) -> Int8Inference:
    """Makes the int8 graph of a model and counts what it gets right.

    Args:
        task: The task.
        shape: Shape of one sample.
        classes: Number of classes.
        parameters: The model.
        batches: Frames `[S, B, *shape]` and labels `[B]` of held-out samples.

    Raises:
        Exception: What onnx and onnxruntime raise when they cannot.
    """
    from server.graphs import int8  # noqa: PLC0415 - onnx, at the end of a run only

    plain = int8.baked(task, shape, classes, parameters)
    integer = int8.with_integer_products(plain)
    return Int8Inference(
        accuracy=_accuracy(integer, batches),
        bytes=integer.ByteSize(),
        float_bytes=plain.ByteSize(),
        integer_layers=int8.integer_products(integer),
        layers=sum(name.endswith(".weight") for name in parameters),
    )


def _accuracy(model: onnx.ModelProto, batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> float:
    import onnxruntime  # noqa: PLC0415 - see above

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    right = total = 0
    for frames, labels in batches:
        right += int((session.run(["logits"], {"frames": frames})[0].argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def note_int8_inference(ledger: Ledger, evaluator: Evaluator) -> None:
    """Notes in the ledger what int8 inference of the newest model is like, or why that is not known.

    Whatever fails in here is noted as the reason: it ends no run.
    """
    try:
        found = _of_newest(ledger, evaluator)
    except Exception as error:  # noqa: BLE001 - onnx and onnxruntime raise what they like
        found = Int8Inference(reason=f"{type(error).__name__}: {error}"[:_LONGEST_REASON])
        log.warning("no int8 inference: %s", found.reason)
    with ledger.transaction():
        ledger.set_meta(META_KEY, msgspec.json.encode(found).decode())


def _of_newest(ledger: Ledger, evaluator: Evaluator) -> Int8Inference:
    if evaluator.task.model.own is not None:
        return Int8Inference(reason="not made for a network of the user's own")
    row = ledger.row(
        "SELECT models.version, object, accuracy FROM models JOIN evaluations USING (version) "
        "ORDER BY models.version DESC LIMIT 1"
    )
    if row is None or row["object"] is None:
        return Int8Inference(reason="the newest model was not evaluated")
    found = int8_inference(
        evaluator.task, evaluator.shape, evaluator.classes, parameters_of(row["object"]), evaluator.batches()
    )
    return msgspec.structs.replace(found, model_version=row["version"], fake_quantised_accuracy=row["accuracy"])


def noted(ledger: Ledger) -> Int8Inference:
    """What a ledger says of int8 inference."""
    text = ledger.meta(META_KEY)
    if text is None:
        return Int8Inference(reason="not evaluated: it is made when a run with evaluate = true finishes")
    return msgspec.json.decode(text, type=Int8Inference)

"""The boards' engine: onnxruntime over the training graph that the server exported. Nothing is differentiated here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.models.layout import parameter_shapes
from contract.task import TaskSpec
from edge_client.engine import StepResult

Parameters = Mapping[str, NDArray[np.float32]]

_ONLY_ERRORS = 3


class OnnxEngine:
    """Backpropagation through time as one ONNX graph; SPEC.md names its inputs and outputs.

    Args:
        task: Decides the parameters.
        shape: Shape of one sample.
        classes: Number of classes.
        graphs: `training`, and `inference` where `logits` is asked for: bytes of ONNX files.
        threads: CPU threads, at least 1.

    Raises:
        ConfigurationError: The training graph is no graph of this task, or not one that this onnxruntime runs.
    """

    name = "onnx"

    def __init__(
        self, task: TaskSpec, shape: tuple[int, ...], classes: int, graphs: Mapping[str, bytes], *, threads: int = 1
    ) -> None:
        self._threads, self._graphs = threads, dict(graphs)
        self._names = tuple(parameter_shapes(task, shape, classes))
        self._inference: onnxruntime.InferenceSession | None = None
        self._training = _session(self._graphs.pop("training"), threads, "training")
        outputs = [output.name for output in self._training.get_outputs()]
        gradients = [f"gradient:{name}" for name in self._names]
        emitted = [name for name in outputs if name.startswith("emitted:")]
        _expect("inputs", {"frames", "labels", *self._names}, {i.name for i in self._training.get_inputs()})
        _expect("outputs", {"loss", *gradients}, set(outputs) - set(emitted))
        self._wanted = ["loss", *gradients, *emitted]  # named, since the session would ask itself for them each time

    def gradients(self, params: Parameters, frames: NDArray[np.float32], labels: NDArray[np.int64]) -> StepResult:
        """See `edge_client.engine.Engine`."""
        feed = {"frames": frames, "labels": labels, **{name: params[name] for name in self._names}}
        loss, *found = self._training.run(self._wanted, feed)
        parameters = len(self._names)
        return StepResult(
            loss=float(loss),
            gradients=dict(zip(self._names, found[:parameters], strict=True)),
            emitted=tuple(found[parameters:]),
        )

    def logits(self, params: Parameters, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network says of a batch.

        Args:
            params: The network's parameters.
            frames: As in `gradients`.

        Returns:
            `[B, classes]`.

        Raises:
            ConfigurationError: No inference graph was given.
        """
        if self._inference is None:
            if "inference" not in self._graphs:
                raise ConfigurationError("this engine was given no inference graph: fetch the task's 'inference'")
            self._inference = _session(self._graphs.pop("inference"), self._threads, "inference")
        feed = {"frames": frames, **{name: params[name] for name in self._names}}
        (found,) = self._inference.run(["logits"], feed)
        return cast("NDArray[np.float32]", found)


def _session(graph: bytes, threads: int, name: str) -> Any:
    """A session for a machine that does one thing at a time.

    Arena and memory pattern stay on: measured on 784-256-10 they take no more memory than allocating anew each step.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread burns joules
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise ConfigurationError(
            f"the {name} graph of {len(graph)} bytes is refused by onnxruntime {onnxruntime.__version__} ({error}): "
            "update onnxruntime on this device"
        ) from error


def _expect(what: str, wanted: set[str], found: set[str]) -> None:
    if wanted != found:
        differing = ", ".join(sorted(wanted ^ found))
        raise ConfigurationError(
            f"the training graph's {what} are not this task's (differing: {differing}): "
            "server and device must run the same version of this program"
        )

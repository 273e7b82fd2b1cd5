"""The boards' engine: onnxruntime over the training graph that the server exported. Nothing is differentiated here."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.models.emissions import Emitted
from contract.models.layout import layers, parameter_shapes
from contract.task import TaskSpec
from edge_client import aligned
from edge_client.emitted_sums import EmittedSums
from edge_client.engine import Frames, StepResult

Parameters = Mapping[str, NDArray[np.float32]]
Shape = tuple[int, ...]

_ONLY_ERRORS = 3
_TOLD, _BEFORE = "emitted:", "emitted_before:"
"""What a graph adds up of a hidden layer, and what it adds it to."""


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
        outputs = {output.name for output in self._training.get_outputs()}
        optional = {i.name for i in self._training.get_overridable_initializers()}
        counted = any(name.startswith(_TOLD) for name in outputs)
        widths = _widths(task, shape, classes) if counted else ()
        gradients = [f"gradient:{name}" for name in self._names]
        _expect("inputs", {"frames", "labels", *self._names}, {i.name for i in self._training.get_inputs()})
        _expect("optional inputs", {f"{_BEFORE}{i}" for i in range(len(widths))}, optional)
        _expect("outputs", {"loss", *gradients, *(f"{_TOLD}{i}" for i in range(len(widths)))}, outputs)
        self._sums = EmittedSums(widths, 1 if task.model.family == "ann" else task.encoding.steps)
        self._binding = _Binding(self._training, parameter_shapes(task, shape, classes), self._sums)

    def gradients(self, params: Parameters, frames: Frames, labels: NDArray[np.int64]) -> StepResult:
        """See `edge_client.engine.Engine`."""
        return self._binding.step(params, frames, labels)

    def emitted(self) -> tuple[Emitted, ...]:
        """See `edge_client.engine.Engine`."""
        return self._sums.take()

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


class _Binding:
    """Where the training graph reads and writes: numpy's own arrays, the same in every step.

    With outputs of its own for every step, the allocator would often hand their memory back to the system and take it
    again; on 784-256-10 that and the search for inputs by name take a tenth of a step of one sample.

    Args:
        session: The training graph's.
        parameters: Shape of each parameter.
        sums: What hidden layers emit is added to its counts: the graph reads and writes the same memory. It does so by
            an `Add`, which onnxruntime itself lets write over what it reads.
    """

    def __init__(self, session: Any, parameters: Mapping[str, Shape], sums: EmittedSums) -> None:
        self._session, self._binding, self._sums = session, session.io_binding(), sums
        self._gradients = {name: aligned.zeros(size) for name, size in parameters.items()}
        self._loss = np.zeros((), np.float32)
        self._frames, self._labels = np.zeros(0, np.float32), np.zeros(0, np.int64)
        self._read: dict[str, weakref.ref[NDArray[np.float32]] | None] = dict.fromkeys(parameters)
        self._copies: dict[str, NDArray[np.float32] | None] = {}
        self._write("loss", self._loss)
        for name, array in self._gradients.items():
            self._write(f"gradient:{name}", array)

    def step(self, params: Parameters, frames: Frames, labels: NDArray[np.int64]) -> StepResult:
        """One step; what it hands back is overwritten by the next."""
        if labels.shape != frames.shape[1:2]:
            raise ValueError(f"labels of shape {labels.shape} for frames of shape {frames.shape}: one for each sample")
        if frames.shape != self._frames.shape:
            self._fit(frames.shape)
        for name, read in self._read.items():
            if read is None or read() is not params[name]:
                self._read_from(name, params[name])
        np.copyto(self._frames, frames)
        np.copyto(self._labels, labels)
        self._sums.open_pass()
        self._session.run_with_iobinding(self._binding)
        return StepResult(loss=float(self._loss), gradients=dict(self._gradients))

    def _fit(self, shape: Shape) -> None:
        """Memory for frames of another shape `[S, B, *shape]`."""
        batch = shape[1]
        self._frames, self._labels = aligned.zeros(shape), np.zeros(batch, np.int64)
        for name, array in (("frames", self._frames), ("labels", self._labels)):
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        self._sums.begin(batch)
        for i, counts in enumerate(self._sums.counts):
            self._binding.bind_ortvalue_input(f"{_BEFORE}{i}", onnxruntime.OrtValue.ortvalue_from_numpy(counts))
            self._write(f"{_TOLD}{i}", counts)

    def _write(self, name: str, array: NDArray[Any]) -> None:
        self._binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))

    def _read_from(self, name: str, array: NDArray[np.float32]) -> None:
        """Binds a parameter to `array`, or to a copy for this step alone where it has gaps or lies askew.

        Only where an array lies is kept, so that a model is not held beyond its round; the same array may have been
        changed in place by the next step.
        """
        whole = np.require(array, np.float32, ("C", "A"))
        self._binding.bind_input(name, "cpu", 0, np.float32, whole.shape, whole.ctypes.data)
        self._read[name] = weakref.ref(array) if whole is array else None
        self._copies[name] = None if whole is array else whole


def _widths(task: TaskSpec, shape: Shape, classes: int) -> tuple[int, ...]:
    """Neurons of each hidden layer."""
    return tuple(math.prod(layer.outputs) for layer in layers(task, shape, classes)[:-1])


def _session(graph: bytes, threads: int, name: str) -> Any:
    """A session for a machine that does one thing at a time.

    Arena and memory pattern stay on: measured on 784-256-10 they take no more memory than allocating anew each step.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # the file's (`server.graphs.schedule`)
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

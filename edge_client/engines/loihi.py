"""Trains on the host, infers on a Loihi 2: gradients are the `onnx` engine's, classification is the chip's.

No surrogate gradient is computed on the chip. What the device publishes is therefore what any other device publishes;
in addition it classifies some of its own samples by each new model on the chip, or in lava's fixed-point simulation of
one, in lava's own environment (`hardware.loihi.environment`), and keeps the outcome in its folder.

The chip has one threshold a layer, so that weights are rounded once more, from the task's grid of each output channel
to one of the whole layer (`hardware.loihi.quantisation`): the accuracy found is the chip's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.models.emissions import Emitted
from contract.models.layout import LayerSpec, layers
from contract.task import TaskSpec
from edge_client.engine import Frames, StepResult
from edge_client.engines.onnx import OnnxEngine
from edge_client.inference import Classified
from hardware.loihi.description import LARGEST_DECAY, ChipNetwork, LayerShape
from hardware.loihi.energy import count, readings
from hardware.loihi.environment import Lava
from hardware.loihi.errors import NoLavaError
from hardware.loihi.quantisation import decay_integer, quantised

Parameters = Mapping[str, NDArray[np.float32]]


class LoihiEngine:
    """The `onnx` engine, and a chip beside it.

    Args:
        task: Decides the network; see `check_task`.
        shape: Shape of one sample.
        classes: Number of classes.
        graphs: As the `onnx` engine takes them.
        threads: CPU threads of the host's part, at least 1.
        lava: Lava's process; `None` takes the environment that `make loihi` made.

    Attributes:
        name: `loihi (hardware)` or `loihi (simulator)`.

    Raises:
        ConfigurationError: The chip cannot run this task's network, lava's environment is not there, or as the `onnx`
            engine says.
    """

    def __init__(
        self,
        task: TaskSpec,
        shape: tuple[int, ...],
        classes: int,
        graphs: Mapping[str, bytes],
        *,
        threads: int = 1,
        lava: Lava | None = None,
    ) -> None:
        check_task(task)
        self._task, self._layers = task, layers(task, shape, classes)
        self._host = OnnxEngine(task, shape, classes, graphs, threads=threads)
        self._lava = lava or found_lava()
        try:
            self.name = f"loihi ({self._lava.where()})"
        except NoLavaError as error:
            raise ConfigurationError(f"engine = 'loihi': {error}") from error

    def gradients(self, params: Parameters, frames: Frames, labels: NDArray[np.int64]) -> StepResult:
        """See `edge_client.engine.Engine`."""
        return self._host.gradients(params, frames, labels)

    def emitted(self) -> tuple[Emitted, ...]:
        """See `edge_client.engine.Engine`."""
        return self._host.emitted()

    def classify(self, params: Parameters, frames: NDArray[np.float32]) -> Classified:
        """See `edge_client.inference.Classifies`.

        Raises:
            ChipError: The parameters do not fit the chip, or the frames are no spikes.
            NoLavaError: Lava failed.
        """
        network = self.network(params)
        spikes = np.moveaxis(frames, 0, 1).astype(np.uint8).reshape(*frames.shape[1::-1], *network.inputs)
        run = self._lava.run(network, spikes)
        complete = len(run.trains) == len(network.layers)
        return Classified(
            predictions=run.trains[-1].sum(1, dtype=np.int64).argmax(1),
            where=run.answer.where,
            duration_s=run.answer.duration_s,
            readings=readings(run.answer, count(network, spikes, run.trains) if complete else None),
        )

    def network(self, params: Parameters) -> ChipNetwork:
        """The task's network in the chip's integers.

        Raises:
            ChipError: It does not fit the chip.
        """
        neuron = self._task.neuron
        return ChipNetwork(
            layers=tuple(
                quantised(
                    params[f"{spec.name}.weight"],
                    params[f"{spec.name}.bias"],
                    threshold=neuron.threshold,
                    beta=neuron.beta,
                    shape=_chip_shape(spec, first=index == 0),
                )
                for index, spec in enumerate(self._layers)
            )
        )


def _chip_shape(spec: LayerSpec, *, first: bool) -> LayerShape:
    conv = spec.kind == "conv"
    return LayerShape(
        kind="conv" if conv else "dense",
        inputs=spec.inputs if conv or not first else (math.prod(spec.inputs),),
        outputs=spec.outputs,
        stride=spec.stride,
        padding=spec.padding,
        decay=0,
        threshold=1,
        scale=1.0,
    )


def found_lava() -> Lava:
    """The environment that `make loihi` made.

    Raises:
        ConfigurationError: There is none; says how it is made.
    """
    try:
        return Lava.find()
    except NoLavaError as error:
        raise ConfigurationError(f"engine = 'loihi': {error}") from error


def check_task(task: TaskSpec) -> None:
    """Whether the chip can run a task's network.

    Raises:
        ConfigurationError: Names the first key that it cannot, its value, and what to set.
    """
    for holds, key, value, remedy in _conditions(task):
        if not holds:
            raise ConfigurationError(f"engine = 'loihi' with {key} = {value!r}: {remedy}, or take engine = 'onnx'")


def _conditions(task: TaskSpec) -> tuple[tuple[bool, str, object, str], ...]:
    """What must hold, the key that it is about, the key's value, and what to do."""
    model, neuron, encoding = task.model, task.neuron, task.encoding
    return (
        (model.family == "snn", "task.model.family", model.family, "the chip has spiking neurons only; set 'snn'"),
        (
            model.kind != "own",
            "task.model.kind",
            model.kind,
            "the layers of a network of the user's own are not known to the device; set 'fc' or 'conv'",
        ),
        (
            encoding.kind != "direct",
            "task.encoding.kind",
            encoding.kind,
            "the chip takes spikes, no currents; set 'rate', 'latency' or 'events'",
        ),
        (
            model.readout == "spike",
            "task.model.readout",
            model.readout,
            "the chip answers by spikes, not by membranes; set 'spike'",
        ),
        (
            neuron.reset == "zero",
            "task.neuron.reset",
            neuron.reset,
            "a neuron of the chip starts from 0 again after a spike; set 'zero'",
        ),
        (
            model.weight_bits == 8,
            "task.model.weight_bits",
            model.weight_bits or 32,
            "the chip's weights have 8 bits; train on that grid, set 8",
        ),
        (
            model.membrane_bits is None,
            "task.model.membrane_bits",
            model.membrane_bits,
            "the chip's membranes have 24 bits; leave it out",
        ),
        (
            decay_integer(neuron.beta) <= LARGEST_DECAY,
            "task.neuron.beta",
            neuron.beta,
            f"the chip's membranes keep at least 1/4096 of themselves a step; set {1 / 4096:.5f} or more",
        ),
    )

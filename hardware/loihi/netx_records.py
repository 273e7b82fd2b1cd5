"""What lava-dl's network exchange file holds, as plain records: the layout without the library that writes it.

The layout is the one that lava-dl 0.6.0 writes (`lava.lib.dl.slayer.block`, `export_hdf5`) and
`lava.lib.dl.netx.hdf5.Network` reads: a group `layer/<i>` per layer with `type`, `shape` and, by type, `weight`,
`bias`, `stride`, ..., and `neuron` with its constants. `iDecay` 4096 ends a current with its step. Shapes are stored
channels first; netx turns them into its (width, height, channels).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hardware.loihi.description import DECAY_UNIT, ChipNetwork, Layer

Record = dict[str, Any]


def records(network: ChipNetwork) -> list[Record]:
    """The groups of the file in order: names to values, a dict for a group."""
    image = len(network.inputs) == 3
    found: list[Record] = [{"type": "input", "shape": np.array(network.inputs)}] if image else []
    for layer in network.layers:
        if layer.shape.kind == "dense" and image:
            found.append({"type": "flatten"})
            image = False
        found.append(_RECORDS[layer.shape.kind](layer))
    return found


def _neuron(layer: Layer) -> Record:
    return {
        "type": "CUBA",
        "iDecay": DECAY_UNIT,
        "vDecay": layer.shape.decay,
        "vThMant": layer.shape.threshold,
        "refDelay": 1,
        "gradedSpike": False,
    }


def _dense(layer: Layer) -> Record:
    return {
        "type": "dense",
        "shape": np.array([layer.shape.neurons]),
        "inFeatures": math.prod(layer.shape.inputs),
        "outFeatures": layer.shape.neurons,
        "weight": layer.weight,
        "bias": layer.bias,
        "neuron": _neuron(layer),
    }


def _conv(layer: Layer) -> Record:
    kernel = layer.weight.shape[-1]
    return {
        "type": "conv",
        "shape": np.array(layer.shape.outputs),
        "inChannels": layer.shape.inputs[0],
        "outChannels": layer.shape.outputs[0],
        "kernelSize": np.array([kernel, kernel]),
        "stride": np.array([layer.shape.stride] * 2),
        "padding": np.array([layer.shape.padding] * 2),
        "dilation": np.array([1, 1]),
        "groups": 1,
        "weight": layer.weight,
        "bias": layer.bias,
        "neuron": _neuron(layer),
    }


_RECORDS = {"dense": _dense, "conv": _conv}

"""Networks in the chip's integers, drawn at random, and spikes to feed them."""

from __future__ import annotations

import numpy as np

from hardware.loihi.description import ChipNetwork, Layer, LayerShape, weight_shape
from hardware.loihi.quantisation import quantised


def shape(kind: str, inputs: tuple[int, ...], outputs: tuple[int, ...], **more: int) -> LayerShape:
    return LayerShape(kind=kind, inputs=inputs, outputs=outputs, **({"decay": 410, "threshold": 101} | more), scale=1.0)


def drawn(rng: np.random.Generator, layer: LayerShape, kernel: int = 1) -> Layer:
    size = weight_shape(layer, kernel)
    weight = rng.normal(0.05, 2 / np.sqrt(np.prod(size[1:])), size)
    return quantised(weight, rng.normal(0, 0.1, size[0]), threshold=1.0, beta=0.9, shape=layer)


def networks() -> dict[str, ChipNetwork]:
    rng = np.random.default_rng(5)
    fc = (shape("dense", (30,), (20,)), shape("dense", (20,), (6,)))
    conv = (
        shape("conv", (2, 9, 8), (3, 5, 4), stride=2, padding=1),
        shape("conv", (3, 5, 4), (4, 5, 4), padding=1),
        shape("dense", (4, 5, 4), (6,)),
    )
    return {
        "fc": ChipNetwork(layers=tuple(drawn(rng, layer) for layer in fc)),
        "conv": ChipNetwork(layers=tuple(drawn(rng, layer, kernel=3) for layer in conv)),
    }


def spikes(network: ChipNetwork, samples: int = 3, steps: int = 12) -> np.ndarray:
    return (np.random.default_rng(6).random((samples, steps, *network.inputs)) < 0.3).astype(np.uint8)

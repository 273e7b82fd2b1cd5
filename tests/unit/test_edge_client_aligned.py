"""Arrays begin on a cache line, whatever their shape, and those of training do."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from contract.models.layout import initial_parameters
from contract.task import ModelSpec, RoundPlan, TaskSpec
from edge_client import aligned
from edge_client.engines.onnx import OnnxEngine
from edge_client.training import Shard, local_update, make_receipt
from server.export import training_graph

SHAPE, CLASSES = (1, 4, 4), 3


def line(array: np.ndarray) -> int:
    return array.ctypes.data % aligned.LINE_BYTES


@pytest.mark.parametrize("shape", [(), (1,), (10,), (3, 5), (256, 784), (4, 1, 5, 5)])
def test_arrays_begin_on_a_line(shape):
    kept = []
    for _ in range(50):
        kept += [aligned.empty(shape), aligned.zeros(shape), aligned.copied(np.full(shape, 2.5, np.float32))]
    assert {line(array) for array in kept} == {0}
    assert {(array.shape, array.dtype.str) for array in kept} == {(shape, "<f4")}
    assert all(array.flags.c_contiguous and array.flags.writeable for array in kept)
    assert all(not array.any() for array in kept[1::3])
    assert all((array == 2.5).all() for array in kept[2::3])


def test_a_copy_is_one():
    given = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]
    found = aligned.copied(given)
    found += 1
    np.testing.assert_array_equal(found, given + 1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradients_and_weights_of_a_training_lie_so(momentum):
    """Whatever the heap looks like: one more array of some bytes before each life."""
    task = TaskSpec(model=ModelSpec(hidden=(7,)))
    plan = RoundPlan(local_steps=3, batch_size=2, momentum=momentum)
    rng = np.random.default_rng(0)
    shard = Shard(x=rng.random((5, *SHAPE), dtype=np.float32), y=rng.integers(0, CLASSES, 5), classes=CLASSES)
    receipt = make_receipt(task, plan, 5, secret=1, node="a", round_=1, uid="0" * 32)
    params = initial_parameters(task, SHAPE, CLASSES)
    heap = []
    for nbytes in range(16, 16 * 9, 16):
        heap.append(np.zeros(nbytes, np.uint8))
        engine = OnnxEngine(task, SHAPE, CLASSES, {"training": training_graph(task, SHAPE, CLASSES)})
        made = local_update(engine, params, task=task, plan=plan, shard=shard, receipt=receipt)
        gradients = engine.gradients(params, np.zeros((1, 2, *SHAPE), np.float32), shard.y[:2]).gradients
        assert {line(array) for array in (*made.tensors.values(), *gradients.values())} == {0}
        heap.append(msgspec.structs.asdict(made))

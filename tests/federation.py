"""Federated training in one process, of the product's own parts: no broker, no clock, the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract import datasets
from contract.codecs import buffer_view, decode_tensors
from contract.models.layout import initial_parameters
from contract.pipeline import pipeline
from contract.task import RoundPlan, TaskSpec
from edge_client.engine import Engine, open_engine
from edge_client.pipeline import press
from edge_client.training import Shard, local_update, make_receipt, update_stream
from server.aggregation import ALGORITHMS, Contribution, descend, weighted_mean
from server.export import training_graph

Parameters = dict[str, NDArray[np.float32]]


class Round(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The model after a round, and what the devices sent for it.

    Attributes:
        parameters: The new global model.
        update_bytes: Mean size of an update's tensors as they were packed.
        loss: Mean of the devices' training losses.
    """

    parameters: Parameters
    update_bytes: float
    loss: float


class Fleet:
    """Devices with a shard and a residual each.

    Args:
        task: The task.
        clients: Number of devices.
        engine: `onnx` or `torch`.
    """

    def __init__(self, task: TaskSpec, clients: int, *, engine: str = "onnx") -> None:
        data = datasets.load(task.dataset)
        train, _ = datasets.held_out_split(task, data.y)
        x, y = np.array(data.x[train]), data.y[train]
        self.task, self.info = task, data.info
        self.shards = [
            Shard(x=x[part], y=y[part], classes=data.info.classes) for part in datasets.partition(task, y, clients)
        ]
        self.residuals: list[Parameters | None] = [None] * clients
        self.engine = self._open(engine)

    def _open(self, name: str) -> Engine:
        shape, classes = self.info.shape, self.info.classes
        graphs = {"training": training_graph(self.task, shape, classes)} if name == "onnx" else {}
        return open_engine(name, self.task, shape, classes, graphs=graphs)

    def rounds(self, plan: RoundPlan, count: int, *, secret: int) -> Iterator[Round]:
        """Trains from the task's initial parameters, every device in every round.

        Args:
            plan: Of every round.
            count: Number of rounds.
            secret: Seed of the devices' draws.
        """
        parameters: Parameters = initial_parameters(self.task, self.info.shape, self.info.classes)
        velocity = None
        for number in range(1, count + 1):
            updates, sizes, losses = [], [], []
            for device in range(len(self.shards)):
                contribution, nbytes, loss = self._update(device, parameters, plan, number, secret)
                updates.append(contribution)
                sizes.append(nbytes)
                losses.append(loss)
            step = ALGORITHMS[plan.algorithm].step(weighted_mean(sorted(updates, key=lambda u: u.uid)), plan)
            parameters, velocity = descend(parameters, velocity, step, plan)
            yield Round(parameters=parameters, update_bytes=float(np.mean(sizes)), loss=float(np.mean(losses)))

    def _update(
        self, device: int, parameters: Parameters, plan: RoundPlan, number: int, secret: int
    ) -> tuple[Contribution, int, float]:
        shard, node = self.shards[device], f"device-{device}"
        uid = hashlib.sha256(f"{node} {number}".encode()).hexdigest()[:32]
        receipt = make_receipt(self.task, plan, len(shard.x), secret=secret, node=node, round_=number, uid=uid)
        trained = local_update(self.engine, parameters, task=self.task, plan=plan, shard=shard, receipt=receipt)
        pressed = press(
            pipeline(plan),
            trained.tensors,
            self.residuals[device],
            lambda purpose: update_stream(secret, purpose, node, number, uid),
        )
        self.residuals[device] = pressed.residual
        views = [buffer_view(buffer) for buffer in pressed.buffers]
        tensors = decode_tensors(pressed.records, views)
        contribution = Contribution(uid=uid, weight=float(trained.samples), tensors=tensors)
        return contribution, sum(view.nbytes for view in views), trained.loss

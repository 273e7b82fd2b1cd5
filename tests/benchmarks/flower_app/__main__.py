"""python -m flower_app CLIENTS ROUNDS X.npy Y.npy: FedAvg over Flower's simulation engine; one JSON line a round.

Follows Flower's PyTorch quickstart: `ClientApp` and `ServerApp` with the Message API, the partition loaded once a
process, a fresh network per call. Nothing is evaluated, on no side.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import snntorch
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

STEPS, BATCH = 10, 16
CLIENTS, ROUNDS = int(sys.argv[1]), int(sys.argv[2])
X, Y = sys.argv[3], sys.argv[4]


class Net(torch.nn.Module):
    """784-256-10, leaky integrate and fire, rate coding, stepped in Python as snntorch's tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(784, 256), torch.nn.Linear(256, 10)
        self.hidden, self.out = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        hidden, out = self.hidden.init_leaky(), self.out.init_leaky()
        total = torch.zeros(())
        for frame in frames:
            spikes, hidden = self.hidden(self.first(frame), hidden)
            _, out = self.out(self.second(spikes), out)
            total = total + out
        return total / len(frames)


_LOADED: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


def load_partition(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    if number not in _LOADED:
        x, y = np.load(X, mmap_mode="r"), np.load(Y)
        rows = slice(number, None, CLIENTS)
        images = torch.from_numpy(np.array(x[rows], dtype=np.float32).reshape(-1, 784))
        _LOADED[number] = images, torch.from_numpy(y[rows])
    return _LOADED[number]


client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = load_partition(int(context.node_config["partition-id"]))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    rows = torch.randperm(len(x))[:BATCH]
    frames = (torch.rand(STEPS, BATCH, 784) < x[rows]).float()
    loss = torch.nn.functional.cross_entropy(net(frames), y[rows])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    metrics = MetricRecord({"train_loss": loss.item(), "num-examples": BATCH})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    def say(number: int, _arrays: ArrayRecord) -> None:
        sys.stdout.write(json.dumps({"round": number, "at_s": time.monotonic()}) + "\n")
        sys.stdout.flush()

    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS, min_train_nodes=CLIENTS)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=ROUNDS, evaluate_fn=say)


if __name__ == "__main__":
    run_simulation(server_app=server, client_app=client, num_supernodes=CLIENTS)

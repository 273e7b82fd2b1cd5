"""Gradients of rate- and event-coded batches by snntorch itself, with their true frames: for tests and benchmark."""

from __future__ import annotations

import numpy as np
import torch

from attack.threat import Observation, ThreatModel
from contract.datasets import load
from contract.encodings import encode
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.models.reference import SteppingNetwork
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec


def rate_task(
    steps, *, hidden=256, surrogate="atan", readout="membrane", reset="subtract", weight_bits=None, seed=1
) -> TaskSpec:
    """784-hidden-10 on MNIST, beta 0.9."""
    return TaskSpec(
        dataset="mnist5k",
        encoding=EncodingSpec(kind="rate", steps=steps),
        model=ModelSpec(hidden=(hidden,), readout=readout, weight_bits=weight_bits),
        neuron=NeuronSpec(surrogate=surrogate, reset=reset),
        seed=seed,
    )


def event_task(
    steps, *, hidden=256, surrogate="atan", readout="membrane", reset="subtract", weight_bits=None, seed=1
) -> TaskSpec:
    """2312-hidden-10 on N-MNIST, beta 0.9."""
    return TaskSpec(
        dataset="nmnist",
        encoding=EncodingSpec(kind="events", steps=steps),
        model=ModelSpec(hidden=(hidden,), readout=readout, weight_bits=weight_bits),
        neuron=NeuronSpec(surrogate=surrogate, reset=reset),
        seed=seed,
    )


def trained(task, parameters, updates, rng):
    """Parameters after some steps of Adam on batches of 64."""
    data = load(task.dataset)
    network = Network(task, data.info.shape, data.info.classes)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    optimiser = torch.optim.Adam(tensors.values(), 1e-3)
    for _ in range(updates):
        chosen = rng.choice(len(data.x), 64)
        frames = torch.from_numpy(encode(task.encoding, data.x[chosen], rng))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(tensors, frames), torch.from_numpy(data.y[chosen])).backward()
        optimiser.step()
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def stepped_gradient(task, parameters, frames, y):
    """Mean gradient by name, from snntorch's neurons stepped in time."""
    info = load(task.dataset).info
    network = SteppingNetwork(task, info.shape, info.classes)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in parameters.items()}, strict=False)
    loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(frames)), torch.from_numpy(y))
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, [named[name] for name in parameters])
    return {name: g.numpy().copy() for name, g in zip(parameters, found, strict=True)}


def rate_update(
    task, batch, seed, *, updates=0, local_steps=1, learning_rate=0.1, momentum=0.0, threat=None, change=None
):
    """One update on distinct samples; `change` edits their frames `[T, N, *shape]` before.

    Returns:
        The attacker's observation, the true frames `[N, T, n]` (uint8) and labels `[N]` of its samples.
    """
    rng = np.random.default_rng([seed, 77])
    data = load(task.dataset)
    start = dict(initial_parameters(task, data.info.shape, data.info.classes))
    start = trained(task, start, updates, rng) if updates else start
    chosen = rng.choice(len(data.x), batch * local_steps, replace=False)
    frames = encode(task.encoding, data.x[chosen], rng)
    frames = frames if change is None else change(frames)
    now, update = start, {}
    velocity = {name: np.zeros_like(value) for name, value in start.items()}
    for k in range(local_steps):
        part = slice(k * batch, (k + 1) * batch)
        update = stepped_gradient(task, now, frames[:, part], data.y[chosen[part]])
        if local_steps > 1:
            velocity = {name: np.float32(momentum) * v + update[name] for name, v in velocity.items()}
            now = {name: value - np.float32(learning_rate) * velocity[name] for name, value in now.items()}
    if local_steps > 1:
        update = {name: start[name] - now[name] for name in start}
    algorithm = "fedavg" if local_steps > 1 else "fedsgd"
    plan = RoundPlan(
        algorithm=algorithm,
        batch_size=batch,
        local_steps=local_steps,
        learning_rate=learning_rate,
        momentum=momentum if local_steps > 1 else 0.0,
    )
    observation = Observation(
        threat=threat or ThreatModel(),
        shape=data.info.shape,
        classes=data.info.classes,
        samples=batch * local_steps,
        update=update,
        seed=seed,
        _task=task,
        _plan=plan,
        _parameters=start,
    )
    truth = frames.swapaxes(0, 1).reshape(len(chosen), task.encoding.steps, -1).astype(np.uint8)
    return observation, truth, data.y[chosen]

"""Updates as an attacker sees them, made with the task's own network from given images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from attack.threat import Observation, ThreatModel
from contract.codecs import Codec, buffer_view, decode_tensors, encode_tensors
from contract.encodings import encode
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec

Array32 = NDArray[np.float32]


def task_of(
    *,
    dataset: str = "mnist5k",
    hidden: tuple[int, ...] = (256,),
    steps: int = 10,
    surrogate: str = "atan",
    encoding: str = "direct",
    seed: int = 1,
    **model: object,
) -> TaskSpec:
    """A task with float weights and one hidden layer unless told otherwise."""
    options: dict[str, object] = {"weight_bits": None, "hidden": hidden, **model}
    return TaskSpec(
        dataset=dataset,
        encoding=EncodingSpec(kind=encoding, steps=steps),
        model=ModelSpec(**options),
        neuron=NeuronSpec(surrogate=surrogate),
        seed=seed,
    )


def gradients(
    task: TaskSpec, parameters: Mapping[str, Array32], frames: Array32, y: NDArray[np.int64], classes: int
) -> dict[str, Array32]:
    """Mean gradient of one batch in float32, as a device computes it."""
    network = Network(task, frames.shape[2:], classes)
    tensors = {name: torch.tensor(parameters[name], requires_grad=True) for name in network.names}
    loss = cross_entropy(network(tensors, torch.tensor(frames)), torch.tensor(y))
    found = torch.autograd.grad(loss, list(tensors.values()))
    return {name: gradient.numpy() for name, gradient in zip(network.names, found, strict=True)}


def observe(
    task: TaskSpec,
    x: Array32,
    y: NDArray[np.int64],
    *,
    classes: int = 10,
    codec: str | Codec = "fp32",
    local_steps: int = 1,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    clip: float | None = None,
    noise: float = 0.0,
    labels: bool = False,
    threat: ThreatModel | None = None,
    parameters: Mapping[str, Array32] | None = None,
    seed: int = 0,
) -> tuple[Observation, Array32]:
    """The update of a device that holds exactly these samples, and the frames of all its steps `[T, N, *shape]`.

    With `local_steps` above 1 the samples are dealt to the steps in turn and the update is a weight difference. `clip`
    is the clipping norm in units of the update's own, `noise` the noise multiplier; `labels` grants the labels.
    """
    rng = np.random.default_rng(seed)
    start = dict(initial_parameters(task, x.shape[1:], classes)) if parameters is None else dict(parameters)
    now, part = dict(start), len(x) // local_steps
    drawn, velocity = [], {name: np.float32(0) for name in start}
    for step in range(local_steps):
        chosen = slice(step * part, (step + 1) * part)
        drawn.append(encode(task.encoding, x[chosen], rng))
        gradient = gradients(task, now, drawn[-1], y[chosen], classes)
        velocity = {name: np.float32(momentum) * velocity[name] + gradient[name] for name in now}
        if local_steps > 1:
            now = {name: now[name] - np.float32(learning_rate) * velocity[name] for name in now}
    tensors = gradient if local_steps == 1 else {name: start[name] - now[name] for name in now}
    norm = float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in tensors.values())))
    if clip is not None:
        scale, spread = min(1.0, clip), noise * clip * norm
        tensors = {
            name: (scale * value + spread * rng.normal(size=value.shape)).astype(np.float32)
            for name, value in tensors.items()
        }
    records, buffers = encode_tensors(codec, tensors, rng)
    plan = RoundPlan(
        kind="audit",
        algorithm="fedsgd" if local_steps == 1 else "fedavg",
        local_steps=local_steps,
        batch_size=part,
        learning_rate=learning_rate,
        momentum=momentum if local_steps > 1 else 0.0,
        clip_norm=None if clip is None else clip * norm,
        noise_multiplier=noise,
        codec=codec if isinstance(codec, str) else codec.name,
    )
    update = decode_tensors(records, [buffer_view(buffer) for buffer in buffers])
    observation = Observation(
        threat=threat or ThreatModel(labels=labels),
        shape=x.shape[1:],
        classes=classes,
        samples=len(x),
        update=update,
        seed=seed,
        _task=task,
        _plan=plan,
        _parameters=start,
        _records={record.name: record for record in records},
        _labels=tuple(int(label) for label in y) if labels else None,
    )
    return observation, np.concatenate(drawn, axis=1)

"""True updates for the attacker's tests: real samples, the project's network, every codec."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from attack.threat import Observation, ThreatModel
from attack.worker import Worker
from contract.codecs import decode_tensors, encode_tensors
from contract.datasets import task_info
from contract.encodings import encode, input_shape
from contract.frames import split
from contract.messages import Model, ServerState, TaskManifest, Update, pack, unpack
from contract.messages import encode as encode_message
from contract.models.layout import initial_parameters
from contract.models.network import Network
from contract.task import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, TaskSpec, task_hash


def task_of(dataset="digits", *, family="snn", hidden=(32,), steps=10, kind="direct", **model) -> TaskSpec:
    neuron = {name: model.pop(name) for name in ("surrogate", "surrogate_slope", "beta") if name in model}
    return TaskSpec(
        dataset=dataset,
        encoding=EncodingSpec(kind=kind, steps=steps),
        model=ModelSpec(family=family, hidden=hidden, **model),
        neuron=NeuronSpec(**neuron),
    )


def parameters_of(task):
    return dict(initial_parameters(task, *seen(task)))


def seen(task):
    """Shape of what the network sees at a step, and the number of classes."""
    info = task_info(task)
    return input_shape(task.encoding, info.shape), info.classes


def gradients(task, parameters, frames, y):
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    scores = Network(task, *seen(task))(tensors, torch.tensor(frames))
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(y))
    found = torch.autograd.grad(loss, list(tensors.values()))
    return {name: g.numpy() for name, g in zip(tensors, found, strict=True)}


def local_update(task, x, y, plan, rng, *, parameters=None):
    """What a device sends: a mean gradient, or weights before minus after plain local SGD over consecutive batches."""
    start = parameters or parameters_of(task)
    now = {name: value.copy() for name, value in start.items()}
    for step in range(plan.local_steps):
        part = slice(step * plan.batch_size, (step + 1) * plan.batch_size)
        g = gradients(task, now, encode(task.encoding, x[part], rng), y[part])
        if plan.algorithm == "fedsgd":
            return g
        now = {name: value - np.float32(plan.learning_rate) * g[name] for name, value in now.items()}
    return {name: start[name] - now[name] for name in start}


def update_blob(task, x, y, plan, *, version=1, seed=0, parameters=None, node="device-1", round_=3) -> bytes:
    """An update as it travels."""
    rng = np.random.default_rng(seed)
    tensors = local_update(task, x, y, plan, rng, parameters=parameters)
    records, buffers = encode_tensors(plan.codec, tensors, rng)
    head = Update(
        uid=hashlib.sha256(f"{seed}/{round_}/{node}".encode()).hexdigest()[:32],
        node=node,
        epoch=1,
        round=round_,
        model_version=version,
        task_hash=task_hash(task),
        plan=plan,
        samples=len(x),
        loss=1.0,
        tensors=records,
    )
    return pack(head, buffers)


def model_blob(task, version=1) -> bytes:
    records, buffers = encode_tensors("fp32", parameters_of(task), np.random.default_rng(0))
    return pack(Model(version=version, task_hash=task_hash(task), tensors=records), buffers)


def manifest(task, run="test") -> bytes:
    return encode_message(TaskManifest(run=run, task=task, task_hash=task_hash(task)))


def state(status, run="test") -> bytes:
    return encode_message(ServerState(run=run, status=status, epoch=1))


def frames_of(blob: bytes) -> list[bytes]:
    uid = hashlib.sha256(blob).hexdigest()[:32]
    return list(split(blob, uid))


def audit_plan(batch_size=1, codec="fp32") -> RoundPlan:
    return RoundPlan(kind="audit", algorithm="fedsgd", batch_size=batch_size, codec=codec)


def observe(task, x, y, plan=None, *, threat=None, labels=None, parameters=None, seed=0) -> Observation:
    """The attacker's view of a true update."""
    plan = plan or audit_plan(len(x))
    threat = threat or ThreatModel()
    start = parameters or parameters_of(task)
    head, views = unpack(update_blob(task, x, y, plan, seed=seed, parameters=start), Update)
    shape, classes = seen(task)
    return Observation(
        threat=threat,
        shape=shape,
        classes=classes,
        samples=len(x),
        update=decode_tensors(head.tensors, views),
        seed=seed,
        _task=task,
        _plan=plan,
        _parameters=start,
        _records={record.name: record for record in head.tensors},
        _labels=labels,
    )


def worker(methods, *, threat=None, budget_s=5.0, exhaustive=True, **options) -> Worker:
    return Worker(methods, threat or ThreatModel(), budget_s=budget_s, exhaustive=exhaustive, seed=1, **options)

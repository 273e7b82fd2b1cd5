"""From a user's files to an `Observation` that the ladder attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from attack.module_network import ModuleNetwork
from attack.own.behaviour import coupled, once
from attack.own.outline import Outline, aliases, outline
from attack.own.tracing import trace
from attack.threat import Array32, Observation, OwnNetwork, ThreatModel
from contract.codecs import find_codec
from contract.messages import TensorRecord
from contract.models.own import load_module
from contract.task import EVENT_BINS, EncodingSpec, RoundPlan, TaskSpec
from deploy.audit.behaviour import Behaviour, observe
from deploy.audit.expression import Expression, express, neurons_reason
from deploy.audit.files import matched, read_tensors
from deploy.audit.request import AuditRequest, require

SEED = 1


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is audited, ready for the ladder.

    Attributes:
        observation: All that the attacks read.
        expression: The module in the project's terms, or why it has none.
        first: The module's name of the weight that sees the input; `None` when it was not found.
        dense: Whether that layer is fully connected.
        readout: The module's name of the weight that gives the logits; `None` when it was not found.
        notes: What the user should know of the module.
    """

    observation: Observation
    expression: Expression | str
    first: str | None
    dense: bool
    readout: str | None
    notes: tuple[str, ...]


def subject(request: AuditRequest) -> Subject:
    """Loads, checks and traces.

    Raises:
        ConfigurationError: Anything that the user gave and that cannot be used.
    """
    module = load_module(request.model, named=f"--model {request.model}")
    before = _loaded(module, request)
    update, codec = _update(module, before, request)
    behaviour = observe(module, request)
    labels = request.labels or ()
    require(
        all(0 <= label < behaviour.classes for label in labels),
        f"--label {','.join(map(str, labels))}: labels must lie in 0…{behaviour.classes - 1}, the module's classes",
    )
    encoding, notes = _encoding(request, behaviour)
    notes = (*behaviour.notes, *notes)
    frames = torch.rand(request.steps, request.batch_size, *request.input_shape, generator=torch.Generator())
    traced = trace(module, frames)
    reason = neurons_reason(traced)
    found: Expression | str = reason or express(
        module, traced, behaviour, encoding=encoding, shape=request.input_shape, batch=request.batch_size
    )
    low, high = request.input_range
    if isinstance(found, Expression) and (low, high) != (0.0, 1.0) and found.task.model.kind == "conv":
        found = f"its first layer is a convolution over inputs in {low:g}…{high:g}: padding is not a dark pixel"
    builder = _Builder(
        request=request,
        module=module,
        before={name: tensor.float().numpy() for name, tensor in before.items()},
        update=update,
        codec=codec,
        behaviour=behaviour,
        encoding=encoding,
    )
    if isinstance(found, Expression):
        return builder.expressed(found, notes)
    names = tuple(update)
    seen = outline(module, traced, names, shape=request.input_shape, steps=request.steps, classes=behaviour.classes)
    return builder.own(found, seen, notes)


def _loaded(module: nn.Module, request: AuditRequest) -> dict[str, Tensor]:
    tensors = read_tensors("--weights", request.weights)
    wanted = matched("--weights", request.weights, tensors, module)
    require(bool(wanted), f"--model {request.model}: the module has no trainable parameter, so no update can leak")
    state = module.state_dict()
    fitting = {n: t for n, t in tensors.items() if n in state and t.shape == state[n].shape}
    module.load_state_dict(fitting, strict=False)
    return wanted


def _update(module: nn.Module, before: Mapping[str, Tensor], request: AuditRequest) -> tuple[dict[str, Array32], str]:
    """The update by the module's names, and its codec. One local step's weight difference is made a gradient."""
    option = "--update" if request.update is not None else "--weights-after"
    path = request.update or request.weights_after
    assert path is not None
    tensors = matched(option, path, read_tensors(option, path), module)
    if request.update is not None:
        found = {name: tensor.double() for name, tensor in tensors.items()}
        halves = all(tensor.dtype == torch.float16 for tensor in tensors.values())
        codec = request.codec or ("fp16" if halves else "fp32")
    else:
        found = {name: before[name].double() - tensor.double() for name, tensor in tensors.items()}
        if request.local_steps == 1:
            found = {name: tensor / (request.learning_rate or 1.0) for name, tensor in found.items()}
        codec = request.codec or "fp32"
    require(
        any(bool(tensor.any()) for tensor in found.values()),
        f"{option} {path}: every value is 0: such an update carries no input; capture one from a client that trained",
    )
    return {name: tensor.float().numpy() for name, tensor in found.items()}, codec


def _encoding(request: AuditRequest, behaviour: Behaviour) -> tuple[EncodingSpec, tuple[str, ...]]:
    """The encoding in the attacks' terms; a module without dynamics sees one frame."""
    kind: Any = request.encoding
    if kind == "events" and request.steps > EVENT_BINS:
        kind = "rate"  # binary frames all the same; the project's own recordings are not that long
    direct = EncodingSpec(kind="direct", steps=request.steps)
    if behaviour.time == "dynamics":
        return EncodingSpec(kind=kind, steps=request.steps), ()
    said = f"the module ignores T: its logits depend on the {behaviour.time} frame alone, as an artificial network's do"
    if behaviour.time == "mean":
        return direct, (said,)
    return (direct if kind == "direct" else EncodingSpec(kind=kind, steps=1)), (said,)


class _Builder(msgspec.Struct, frozen=True, kw_only=True):
    """Observations of one update, with or without a task. Tensors are by the module's names."""

    request: AuditRequest
    module: Any
    before: dict[str, Array32]
    update: dict[str, Array32]
    codec: str
    behaviour: Behaviour
    encoding: EncodingSpec

    def expressed(self, found: Expression, notes: tuple[str, ...]) -> Subject:
        """The observation in the project's own terms, so that every attack applies."""
        readout = f"layers.{len([n for n in found.names if n.endswith('weight')]) - 1}."
        update, parameters = {}, {}
        for name, own in found.names.items():
            factor = np.float32(found.factor if name.startswith(readout) else 1.0)
            update[name] = self.update[own] / factor
            parameters[name] = self.before[own] * factor
        # In units of its own the readout's steps are longer; a bias that the module lacks never moves.
        rates = {name: found.factor**2 for name in parameters if name.startswith(readout)}
        for name in [n for n in parameters if n.endswith("weight")]:
            bias = name.replace("weight", "bias")
            if bias not in parameters:
                parameters[bias] = np.zeros(len(parameters[name]), dtype=np.float32)
                rates[bias] = 0.0
        ordered = {n: parameters[n] for n in sorted(parameters, key=_position)}
        affine = self._affine("layers.0", update, ordered)
        return Subject(
            observation=self._observation(update, ordered, found.task, None, moved=affine, rates=rates),
            expression=found,
            first=found.names["layers.0.weight"],
            dense=found.task.model.kind == "fc",
            readout=found.names[f"{readout}weight"],
            notes=notes,
        )

    def own(self, reason: str, seen: Outline, notes: tuple[str, ...]) -> Subject:
        """The observation of a module that is only simulated: first layer first, readout last."""
        names = aliases(tuple(self.update), seen)
        update = {alias: self.update[name] for alias, name in names.items()}
        parameters = {alias: self.before[name] for alias, name in names.items()}
        first = next(iter(names)).rpartition(".")[0] if seen.first else None
        if first is not None and seen.dense:
            parameters.setdefault(f"{first}.bias", np.zeros(len(update[f"{first}.weight"]), dtype=np.float32))
        moved = seen.dense and seen.first_bias is not None and self._affine(first or "", update, parameters)
        low, high = (0.0, 1.0) if moved else self.request.input_range
        network = ModuleNetwork(
            self.module,
            names=names,
            steps=self.request.steps,
            first=first if seen.dense else None,
            reason=reason,
            timeless=self.behaviour.time != "dynamics",
            tells_labels=seen.readout is not None,
            once=once(
                self.module,
                shape=self.request.input_shape,
                steps=self.request.steps,
                batch=self.request.batch_size,
            ),
            coupled=coupled(self.module, shape=self.request.input_shape, steps=self.request.steps),
            offset=low,
            scale=high - low,
        )
        if seen.readout is None:
            notes = (*notes, "no layer's gradient has the signs of the logits' error: labels are known only by --label")
        if seen.first is None:
            notes = (*notes, "no layer was found that sees the input: closed forms do not apply")
        task = TaskSpec(dataset="captured", encoding=self.encoding)
        return Subject(
            observation=self._observation(update, parameters, task, network, moved=moved),
            expression=reason,
            first=seen.first,
            dense=seen.dense,
            readout=seen.readout,
            notes=notes,
        )

    def _affine(self, first: str, update: dict[str, Array32], parameters: dict[str, Array32]) -> bool:
        """Rewrites the first layer for inputs in [0, 1] where the network saw ``low + (high − low) x``.

        ``I = W (low + s x) + b = (s W) x + (b + low W 1)``, so ``dW' = (dW − low db 1ᵀ) / s`` and ``db' = db``.
        """
        low, high = self.request.input_range
        if (low, high) == (0.0, 1.0):
            return False
        weight, bias = f"{first}.weight", f"{first}.bias"
        require(
            bias in update or low == 0,
            f"--input-range {low:g},{high:g}: the first layer has no bias, so the gradient does not show the offset "
            "apart; only 0,HIGH can be taken",
        )
        span = high - low
        shift = low * update[bias].astype(np.float64)[:, None] if bias in update else 0.0
        update[weight] = ((update[weight].astype(np.float64) - shift) / span).astype(np.float32)
        old = parameters[weight].astype(np.float64)
        parameters[bias] = (parameters[bias] + low * old.sum(1)).astype(np.float32)
        parameters[weight] = (old * span).astype(np.float32)
        return True

    def _observation(
        self,
        update: Mapping[str, Array32],
        parameters: Mapping[str, Array32],
        task: TaskSpec,
        network: OwnNetwork | None,
        *,
        moved: bool,
        rates: Mapping[str, float] | None = None,
    ) -> Observation:
        request = self.request
        averaged = request.local_steps > 1
        plan = RoundPlan(
            kind="audit",
            algorithm="fedavg" if averaged else "fedsgd",
            local_steps=request.local_steps,
            batch_size=request.batch_size,
            learning_rate=request.learning_rate or 0.1,
            codec="fp32",
        )
        skipped = next(iter(update)) if moved and self.codec != "fp32" else None  # its bound is not the codec's own
        return Observation(
            threat=ThreatModel(labels=request.labels is not None),
            shape=request.input_shape,
            classes=self.behaviour.classes,
            samples=request.samples,
            update=update,
            seed=SEED,
            _task=task,
            _plan=plan,
            _parameters=parameters,
            _records={n: _record(n, t, self.codec) for n, t in update.items() if n != skipped},
            _labels=request.labels,
            _rates=rates or {},
            _network=network,
        )


def _record(name: str, tensor: Array32, codec: str) -> TensorRecord:
    """A record as the codec writes it; the largest values lie on its grid, so packing once more gives its step."""
    _, scale = find_codec(codec).encode(tensor, np.random.default_rng(SEED))
    return TensorRecord(name=name, shape=tensor.shape, codec=codec, nbytes=tensor.nbytes, scale=scale)


def _position(name: str) -> tuple[int, bool]:
    _, index, kind = name.split(".")
    return int(index), kind == "bias"

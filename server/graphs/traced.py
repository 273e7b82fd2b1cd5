"""Training step and inference of a network that a user wrote, as ONNX: traced, not written by hand.

`torch.autograd.grad` inside a plain function is recorded as core ATen operators by `make_fx`, with the batch as the one
symbolic dimension, and these are turned into ONNX by torch's exporter. The graphs take and give what the hand-written
ones do (`server.export`), but for `emitted:I`: nobody knows which layers somebody's network has.

Loops over time are unrolled: file and export grow with T. The training step of a 784-256-10 loop over snntorch's
neurons took 24 s of one core and 272 kB at T = 10, 50 s and 632 kB at T = 25; it then runs in a fifth to a third of the
loop's own time in torch, and in two to five times that of the hand-written graph.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from contract.errors import ConfigurationError
from contract.models.own import UserNetwork, words
from contract.task import TaskSpec

OPSET = 20
_BATCH = 7
"""Of the example inputs; neither 0 nor 1, which are taken for constants."""
_OPERATOR = re.compile(r"op='(?P<name>[\w.]+)'")


def training_graph(network: UserNetwork, task: TaskSpec, shape: tuple[int, ...], classes: int) -> bytes:
    """One forward and backward pass over a batch.

    Args:
        network: The user's network.
        task: States it.
        shape: Shape of one sample.
        classes: Number of classes.

    Returns:
        A serialized model: inputs `frames` `[S, B, *shape]`, `labels` `[B]` and every parameter by its name; outputs
        `loss`, `gradient:NAME` of every parameter in the module's order.

    Raises:
        ConfigurationError: Something in the network has no form in ONNX; the message names it.
    """
    names = tuple(network.trained)

    def step(frames: Tensor, labels: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        leaves = [p.detach().requires_grad_() for p in params]
        logits = network(dict(zip(names, leaves, strict=True)), frames)
        logs = logits - torch.logsumexp(logits, 1, keepdim=True)
        chosen = (labels[:, None] == torch.arange(classes)[None]).to(logs.dtype)  # one_hot has no ONNX form
        loss = -(logs * chosen).sum(1).mean()
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return loss.detach(), *found

    labels = torch.zeros(_BATCH, dtype=torch.long)
    inputs = {"frames": _frames(task, shape), "labels": labels, **_parameters(network)}
    return _exported(step, inputs, ("loss", *(f"gradient:{name}" for name in names)))


def inference_graph(network: UserNetwork, task: TaskSpec, shape: tuple[int, ...]) -> bytes:
    """Class scores of a batch; see `training_graph`. Output `logits` `[B, classes]`."""
    names = tuple(network.trained)

    def logits(frames: Tensor, *params: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            return (network(dict(zip(names, params, strict=True)), frames),)

    return _exported(logits, {"frames": _frames(task, shape), **_parameters(network)}, ("logits",))


def _frames(task: TaskSpec, shape: tuple[int, ...]) -> Tensor:
    steps = 1 if task.encoding.kind == "direct" else task.encoding.steps
    return torch.ones(steps, _BATCH, *shape)


def _parameters(network: UserNetwork) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.trained.items()}


_BATCH_DIMENSION = {"frames": 1, "labels": 0}


def _exported(function: Callable[..., Any], inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    with _quiet():
        try:
            traced = make_fx(
                function,
                decomposition_table={**core_aten_decompositions(), **OWN_DECOMPOSITIONS},
                tracing_mode="symbolic",
                _allow_non_fake_inputs=True,
            )(*_symbolic(inputs))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"the step cannot be traced ({words(error)}): forward() must take the same path whatever the values are"
            ) from error
        dynamic = torch.export.Dim.DYNAMIC
        try:
            program = torch.onnx.export(
                traced,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple(
                    {_BATCH_DIMENSION[name]: dynamic} if name in _BATCH_DIMENSION else None for name in inputs
                ),
                external_data=False,
                verbose=False,
                optimize=True,
            )
        except Exception as error:
            raise ConfigurationError(f"{_operator(error)}: replace it in the network") from error
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _symbolic(inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Stand-ins of which only the batch is symbolic, and no size is taken for another that it happens to equal."""
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)

    def dimension(name: str, at: int) -> DimDynamic:
        return DimDynamic.DYNAMIC if _BATCH_DIMENSION.get(name) == at else DimDynamic.STATIC

    return [
        mode.from_tensor(
            tensor,
            symbolic_context=StatelessSymbolicContext(
                dynamic_sizes=[dimension(name, at) for at in range(tensor.ndim)],
            ),
        )
        for name, tensor in inputs.items()
    ]


def _operator(error: BaseException) -> str:
    """Which operator has no form in ONNX, as far as the exporter says."""
    at: BaseException | None = error
    while at is not None:
        found = _OPERATOR.search(str(at))
        if found:
            return f"operator {found['name']} has no form in ONNX"
        at = at.__cause__ or at.__context__
    return f"the step has no form in ONNX ({words(error)})"


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its own inside; what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _convolution_backward(  # noqa: PLR0917 - the operator's own arguments
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    _bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,  # noqa: FBT001
    _output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`aten.convolution_backward` by convolutions, which ONNX has; without groups and not of transposed convolutions.

    By the input: the transposed convolution of the gradient. By the weight: the convolution of the inputs with the
    gradient, samples and channels exchanged, stride and dilation exchanged; what stride left over is cut off.
    """
    if transposed or groups != 1:
        raise ConfigurationError(
            "aten.convolution_backward of a transposed or grouped convolution has no form in ONNX here: replace it"
        )
    convolution = torch.ops.aten.convolution.default
    sides = range(weight.ndim - 2)
    by_input = by_weight = by_bias = None
    if wanted[0]:
        reached = [(gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] for i in sides]
        left = [inputs.shape[2 + i] - reached[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1 for i in sides]
        by_input = convolution(gradient, weight, None, stride, padding, dilation, True, left, 1)
    if wanted[1]:
        exchanged = (inputs.transpose(0, 1), gradient.transpose(0, 1))
        by_weight = convolution(*exchanged, None, dilation, padding, stride, False, [0] * len(sides), 1).transpose(0, 1)
        for i in sides:
            by_weight = by_weight.narrow(2 + i, 0, weight.shape[2 + i])
    if wanted[2]:
        by_bias = gradient.sum([0, *(2 + i for i in sides)])
    return by_input, by_weight, by_bias


OWN_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: _convolution_backward,
}
"""Operators of backward passes that the exporter does not know, by those that it does."""

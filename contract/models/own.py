"""A network that a user wrote: loaded from the user's own file, checked, and stated for a task.

The file is executed by whoever was given its path: server, attacker, `spikeleak audit`. It is never sent. What all
parties agree on (`contract.task.OwnModel`) is the file's SHA-256, the factory's name, and names and shapes of the
trained parameters; devices need no more.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from contract.errors import ConfigurationError
from contract.task import ModelSpec, OwnModel, ParameterSpec, TaskSpec

IMPORTED_AS = "spikeleak_own_model"
SAME = 1e-5
"""Relative difference of logits below which two computations are the same up to float32's rounding."""
_BATCHES = (3, 1)
"""Sizes of the batches that a module is tried with."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raises `ConfigurationError(message)` unless the condition holds."""
    if not condition:
        raise ConfigurationError(message)


def words(error: BaseException) -> str:
    """An exception in one line."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"


def source_of(spec: str, *, named: str) -> tuple[Path, str]:
    """File and factory of `FILE.py:FACTORY`.

    Args:
        spec: As the user gave it.
        named: Option or key and its value, for errors.

    Raises:
        ConfigurationError: Another form, or there is no such file.
    """
    file, _, name = spec.rpartition(":")
    require(bool(file) and bool(name), f"{named}: FILE.py:FACTORY is expected, for instance net.py:make")
    require(Path(file).is_file(), f"{named}: there is no file {file}")
    return Path(file), name


def load_module(spec: str, *, named: str) -> nn.Module:
    """The module that `FILE.py:FACTORY` makes. Runs the user's code.

    Args:
        spec: `FILE.py:FACTORY`.
        named: See `source_of`.

    Raises:
        ConfigurationError: No such file or factory, or it raises, or makes something else.
    """
    path, name = source_of(spec, named=named)
    source = _imported(path, named)
    factory = getattr(source, name, None)
    if factory is None:
        names = [n for n, value in vars(source).items() if callable(value) and not n.startswith("_")]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it defines {', '.join(names) or 'no callable'}"
        raise ConfigurationError(f"{named}: {path} has no {name!r}{hint}")
    require(callable(factory), f"{named}: {name!r} is a {type(factory).__name__}, not a callable")
    try:
        module = factory()
    except Exception as error:
        raise ConfigurationError(f"{named}: {name}() raised {words(error)}") from error
    require(
        isinstance(module, nn.Module),
        f"{named}: {name}() gave a {type(module).__name__}; it must return a torch.nn.Module",
    )
    assert isinstance(module, nn.Module)
    return module


def _imported(path: Path, named: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(IMPORTED_AS, path)
    if found is None or found.loader is None:
        raise ConfigurationError(f"{named}: {path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[IMPORTED_AS] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise ConfigurationError(f"{named}: {path} cannot be imported: {words(error)}") from error
    finally:
        sys.path.pop(0)
    return module


class UserNetwork:
    """A user's module as a function of its parameters, equal in the hands of server and attacker.

    Args:
        module: Maps frames `[T, B, *shape]` to logits `[B, classes]`; keeps no state between calls.
        steps: T.
    """

    def __init__(self, module: nn.Module, *, steps: int) -> None:
        self.module, self.steps = module, steps
        self._buffers = dict(module.named_buffers())

    def __call__(self, params: Mapping[str, Tensor], frames: Tensor) -> Tensor:
        """Logits `[B, classes]`.

        Args:
            params: Every trained parameter by name.
            frames: `[T, B, *shape]`, or `[1, B, *shape]` standing for all T steps.
        """
        # With the buffers, so that they are put back afterwards: neurons keep their last membrane in one.
        tensors = {**self._buffers, **params}
        logits: Tensor = functional_call(self.module, tensors, (frames.expand(self.steps, *frames.shape[1:]),))
        return logits

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that a federated run trains, in the module's order."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def initial_parameters(self) -> dict[str, NDArray[np.float32]]:
        """What the factory drew for them."""
        return {name: p.detach().numpy().copy() for name, p in self.trained.items()}


def user_network(
    spec: str, task: TaskSpec, shape: tuple[int, ...], classes: int, *, named: str
) -> tuple[UserNetwork, TaskSpec]:
    """Loads a user's network for a task, with torch's generator seeded by the task while the factory runs.

    Args:
        spec: `FILE.py:FACTORY`.
        task: States this network already, or none yet.
        shape: Shape of one sample.
        classes: Number of classes.
        named: See `source_of`.

    Returns:
        The network, and the task that states it.

    Raises:
        ConfigurationError: The file or what it makes cannot be used, or is not what the task states.
    """
    path, factory = source_of(spec, named=named)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = UserNetwork(load_module(spec, named=named), steps=task.encoding.steps)
    _check_parts(network, named)
    _check_calls(network, shape, classes, named)
    parameters = tuple(ParameterSpec(name=name, shape=tuple(p.shape)) for name, p in network.trained.items())
    own = OwnModel(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), factory=factory, parameters=parameters)
    if task.model.own is None:
        require(
            task.model == ModelSpec(),
            f"{named}: [task.model] describes another network; leave that table out",
        )
        model = ModelSpec(kind="own", hidden=(), channels=(), own=own)
        return network, msgspec.structs.replace(task, model=model)
    for field in OwnModel.__struct_fields__:
        stated, found = getattr(task.model.own, field), getattr(own, field)
        shown = f" ({found} here, {stated} there)" if field != "parameters" else ""
        require(stated == found, f"{named}: is not the network of this task: {field} differs{shown}; use the same file")
    return network, task


def _check_parts(network: UserNetwork, named: str) -> None:
    """Only what a federated run can hold: trained float32 parameters, and nothing that is drawn or kept besides."""
    require(bool(network.trained), f"{named}: the module has no trainable parameter")
    for name, parameter in network.trained.items():
        require(
            parameter.dtype == torch.float32 and parameter.ndim > 0,
            f"{named}: parameter {name!r} is {parameter.dtype} of shape {list(parameter.shape)}; torch.float32 with at "
            "least one dimension is expected: give a single value the shape [1], or set requires_grad = False",
        )
    network.module.train()
    for name, part in network.module.named_modules():
        require(
            not isinstance(part, nn.modules.dropout._DropoutNd) or part.p == 0,  # noqa: SLF001 - their common class
            f"{named}: {name!r} is a dropout layer: its draws would be the same in every exported step; leave it out",
        )
        require(
            not (isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats),  # noqa: SLF001
            f"{named}: {name!r} keeps running statistics, which are no parameters and would not be aggregated; use "
            "nn.GroupNorm, or track_running_stats=False",
        )


def _check_calls(network: UserNetwork, shape: tuple[int, ...], classes: int, named: str) -> None:
    """The module takes batches of any size, and is a function."""
    generator = torch.Generator().manual_seed(0)
    for batch in _BATCHES:
        frames = torch.rand((network.steps, batch, *shape), generator=generator)
        given = f"frames {list(frames.shape)}"
        first, again = (_called(network, frames, given, named) for _ in range(2))
        require(
            list(first.shape) == [batch, classes],
            f"{named}: the module returns shape {list(first.shape)} for {given}; logits [{batch}, {classes}] are "
            "expected: average the readout over time, with one output for each class",
        )
        far = float((first - again).norm() / first.norm().clamp_min(1e-30))
        require(
            far < SAME,
            f"{named}: the same frames gave other logits in a second call (relative difference {far:.1e}, limit "
            f"{SAME:.0e}): reset neuron states at the start of forward(), and draw no random numbers in it",
        )


def _called(network: UserNetwork, frames: Tensor, given: str, named: str) -> Tensor:
    try:
        with torch.no_grad():
            logits: Tensor = network.module(frames)
    except Exception as error:
        raise ConfigurationError(
            f"{named}: the module fails on {given} ({words(error)}); it must take [T, B, *shape], B of any size"
        ) from error
    kind = type(logits).__name__
    require(isinstance(logits, Tensor), f"{named}: the module returns a {kind} for {given}; logits [B, C] are expected")
    require(bool(logits.isfinite().all()), f"{named}: the module returns logits that are not finite for {given}")
    return logits

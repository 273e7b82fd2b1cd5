"""Reads what the user hands over: tensors in safetensors, truth in npz. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from contract.errors import ConfigurationError
from contract.models.own import words
from deploy.audit.request import require

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_tensors(option: str, path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, finite floats as float32 (float64 stays), others as they are.

    Raises:
        ConfigurationError: Not there, not safetensors, or values that are not finite.
    """
    require(path.is_file(), f"{option} {path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{option} {path}: not a safetensors file ({words(error)}); save it with safetensors.torch.save_file, "
            "pickled .pt files are not read"
        ) from error
    require(bool(tensors), f"{option} {path}: holds no tensors")
    for name, tensor in tensors.items():
        if tensor.dtype in _FLOATS:
            broken = int((~tensor.isfinite()).sum())
            require(
                broken == 0,
                f"{option} {path}: {broken} of {tensor.numel()} values of {name!r} are NaN or infinite (limit 0): "
                "such an update carries no input; check the client's training",
            )
    return tensors


def matched(option: str, path: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors of all the module's trained parameters, in its order.

    Buffers may be among the tensors; anything else may not.

    Raises:
        ConfigurationError: Parameters missing, tensors that the module does not have, wrong shapes, no floats.
    """
    wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
    known = {*module.state_dict(), *dict(module.named_parameters()), *dict(module.named_buffers())}
    missing, extra = [n for n in wanted if n not in tensors], [n for n in tensors if n not in known]
    remedy = "use the names of module.named_parameters()"
    also = f", and lacks {_list(missing)}" if missing else ""
    require(not extra, f"{option} {path}: {_list(extra)} {_are(extra)} not in the module{also}; {remedy}")
    require(not missing, f"{option} {path}: parameter {_list(missing)} missing; {remedy} ({_list(list(wanted), 6)})")
    for name, parameter in wanted.items():
        shape = tuple(tensors[name].shape)
        require(
            shape == tuple(parameter.shape),
            f"{option} {path}: {name!r} has shape {list(shape)}, the module's has {list(parameter.shape)}; "
            "check that FACTORY makes the network that was trained",
        )
        require(
            tensors[name].dtype in _FLOATS,
            f"{option} {path}: {name!r} is {tensors[name].dtype}: decoded floating-point values are expected",
        )
    return {name: tensors[name] for name in wanted}


def _list(names: list[str], most: int = 4) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def read_truth(path: Path, shape: tuple[int, ...], samples: int) -> dict[str, Any]:
    """The arrays `x`, and `y` and `frames` where they are there.

    Raises:
        ConfigurationError: Not an npz file, no `x`, or wrong shapes.
    """
    require(path.is_file(), f"--truth {path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: np.asarray(opened[name]) for name in ("x", "y", "frames") if name in opened.files}
    except (ValueError, OSError, AttributeError) as error:
        raise ConfigurationError(f"--truth {path}: not a readable npz file ({words(error)})") from error
    require("x" in arrays, f"--truth {path}: holds no array 'x' ([N, {', '.join(map(str, shape))}], in [0, 1])")
    x = arrays["x"]
    require(
        x.shape == (samples, *shape),
        f"--truth {path}: x has shape {list(x.shape)}; the update has {samples} samples of shape {list(shape)}",
    )
    low, high = float(x.min()), float(x.max())
    require(
        bool(np.isfinite(x).all()) and low >= 0 and high <= 1,
        f"--truth {path}: x lies in {low:g}…{high:g}; inputs before normalisation, in 0…1, are expected",
    )
    return arrays

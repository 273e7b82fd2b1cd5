"""Somebody's own `nn.Module` where the attacks expect a network: parameters and frames in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from attack.threat import NotKnownError


class ModuleNetwork:
    """A module as a function of its parameters, for a network that no `TaskSpec` describes.

    It runs in float32, whatever the attack's precision: step loops usually hold constants of that type. Its layers must
    tell samples apart by the second dimension of the frames.

    Args:
        module: Maps frames `[T, B, *shape]` to logits `[B, classes]`; keeps no state between calls.
        names: The module's name of each parameter that the update has a gradient of, by the update's name.
        steps: T.
        first: Name of the fully connected layer that sees the input, `None` when there is none.
        reason: Why no `TaskSpec` describes it.
        timeless: Whether it has no dynamics, so that one frame stands for all.
        tells_labels: Whether the last weight of the update belongs to the layer that gives the logits.
        coupled: Whether the samples of a batch act on each other (batch norm), so that none can be simulated alone.
        once: Why its gradient cannot be differentiated again; empty when it can.
        offset: The module sees ``offset + scale x`` for a frame x of the attacks.
        scale: See `offset`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        names: Mapping[str, str],
        steps: int,
        first: str | None,
        reason: str,
        timeless: bool = False,
        tells_labels: bool = True,
        coupled: bool = False,
        once: str = "",
        offset: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.module, self.names, self.steps = module, tuple(names), steps
        self.reason, self.timeless, self.tells_labels = reason, timeless, tells_labels
        self.once, self.coupled = once, coupled
        self._own = dict(names)
        self._first = first
        self._offset, self._scale = offset, scale

    def __call__(self, params: Mapping[str, Tensor], frames: Tensor) -> Tensor:
        """Logits `[B, classes]`.

        Args:
            params: Tensors by name. The first layer's bias may be `[B, outputs]`: one row per sample.
            frames: `[T or 1, B, *shape]`.

        Raises:
            NotKnownError: A bias per sample for a module whose first layer is not an `nn.Linear`, or whose samples act
                on each other.
        """
        used = {own: params[name].float() for name, own in self._own.items()}
        bias = params.get(f"{self._first}.bias")
        rows = None
        if bias is not None and bias.ndim == 2:
            rows = bias.float()
            used.pop(self._own.get(f"{self._first}.bias", ""), None)
        seen = self._offset + self._scale * frames.float().expand(self.steps, *frames.shape[1:])
        with self._bias_rows(rows):
            logits: Tensor = functional_call(self.module, used, (seen,))
        return logits.to(frames.dtype)

    @contextmanager
    def _bias_rows(self, rows: Tensor | None) -> Iterator[None]:
        if rows is None:
            yield
            return
        if self.coupled:
            raise NotKnownError("samples of a batch act on each other, as by batch norm: none can be simulated alone")
        layer = self.module.get_submodule(self._first or "")
        if not isinstance(layer, nn.Linear):
            raise NotKnownError(f"the first layer is a {type(layer).__name__}: its bias cannot differ between samples")
        handle = layer.register_forward_hook(_adding(rows))
        try:
            yield
        finally:
            handle.remove()


def _adding(rows: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that puts rows of biases in place of the layer's; outputs are `[..., B, outputs]` or `[T·B, outputs]`."""

    def hook(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        own = layer.bias if isinstance(layer.bias, Tensor) else output.new_zeros(rows.shape[1])
        flat = output.reshape(-1, *rows.shape)
        return (flat + (rows - own)).reshape(output.shape)

    return hook

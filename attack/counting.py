"""What torch does, counted operator by operator: for work too varied for a formula.

Counting takes several times as long as what is counted, so that it is done once for what is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attack.clock import spend, working
from attack.costs import ELEMENT_S, OPERATOR_S, PRODUCT_S

_PASSES = {torch.ops.aten.sort: 80}
"""Operators that are no single pass."""


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what torch does, derivatives included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost_s = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.cost_s += OPERATOR_S
        if not func.is_view:
            sizes = [part.nbytes / 4 for part in (*args, out) if isinstance(part, torch.Tensor)]
            self.cost_s += ELEMENT_S * max(sizes, default=0) * _PASSES.get(func.overloadpacket, 1)
            flops: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
            if flops is not None:
                self.cost_s += PRODUCT_S / 2 * flops(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def counted() -> Iterator[None]:
    """Counts what torch does here, operator by operator: for what is done once, since counting takes time itself."""
    if not working():
        yield
        return
    with _Operators() as operators_of:
        yield
    spend(operators_of.cost_s)


class Repeated:
    """What torch does again and again alike: counted the second time, and taken for the same every time.

    The first time may fill caches that outlive an attack, so that its cost depends on what was attacked before; it is
    spent with the second.
    """

    def __init__(self) -> None:
        self._times = 0
        self._cost_s = 0.0

    @contextmanager
    def once_more(self) -> Iterator[None]:
        """One time."""
        if not working():
            yield
            return
        self._times += 1
        if self._times != 2:
            yield
            spend(self._cost_s)
            return
        with _Operators() as operators_of:
            yield
        self._cost_s = operators_of.cost_s
        spend(2 * self._cost_s)

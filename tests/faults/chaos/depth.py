"""How deep a payload came before something refused it: seen by listening at the product's own checks."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import attack.desk
import attack.models
import edge_client.device
import edge_client.models
import edge_client.scoring
import server.admission
import server.journal
from contract import frames, messages, topics
from contract.frames import Assembler

LAYERS = ("topic", "frame", "object", "record", "admission", "tensor")
"""Where a payload was stopped, from the outside in; what a device or the attacker does with a record is `admission`."""
_BARE = {"node", "server", "ack"}


class Depth:
    """Counts payloads by the layer that stopped them."""

    def __init__(self) -> None:
        self.stopped: Counter[str] = Counter()
        self._reached = 0

    def begin(self) -> None:
        """A payload is handed over."""
        self._reached = 0

    def end(self) -> None:
        """Its handler returned."""
        self.stopped[LAYERS[self._reached]] += 1

    def _passed(self, level: int) -> None:
        self._reached = max(self._reached, level)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """For the time of a block every check of the product is listened at."""
        with contextlib.ExitStack() as stack:
            for place, name, level, when in _CHECKS:
                real = getattr(place, name)
                stack.enter_context(mock.patch.object(place, name, self._listener(real, level, when)))
            yield

    def _listener(self, real: Callable[..., Any], level: int, when: Callable[[Any], bool] | None) -> Callable[..., Any]:
        def listen(*args: Any, **kwargs: Any) -> Any:
            if when is None:  # being asked is enough
                self._passed(level)
                return real(*args, **kwargs)
            found = real(*args, **kwargs)
            if when(found):
                bare = getattr(found, "kind", "") in _BARE or (getattr(found, "kind", "") == "task" and not found.graph)
                self._passed(3 if bare else level)
            return found

        return listen


def _always(_found: Any) -> bool:
    return True


def _some(found: Any) -> bool:
    return found is not None


_CHECKS: tuple[tuple[Any, str, int, Callable[[Any], bool] | None], ...] = (
    (topics, "parse", 1, _always),
    (frames, "parse", 2, _always),
    (Assembler, "add", 3, _some),
    (messages, "decode", 4, _always),
    *((module, "decode", 4, _always) for module in (edge_client.device, attack.desk)),
    (server.admission, "decode_tensors", 5, None),
    (server.journal, "images_of", 5, None),
    (edge_client.models, "decode_plain", 5, None),
    (edge_client.scoring, "decode_plain", 5, None),
    (attack.models, "decode_plain", 5, None),
)

"""Makes lava-nc 0.10.0 and lava-dl 0.6.0 importable on Python 3.11 to 3.13. Runs in lava's environment only.

Both were archived in 2026 and ask for Python 3.10. What newer ones refuse, and what is not needed here:

- Python 3.11 refuses any unhashable default of a dataclass field, 3.10 refused list, dict and set only (`dataclasses`,
  "Changed in version 3.11"). Lava's compiler has such fields. Its default objects are given the identity hash.
- `lava.lib.dl.netx` imports two modules for things that no network of ours has: resonate-and-fire neurons, which bring
  the training library with torch, torchvision and OpenCV, and the sequential modules, which bring torch. Both are
  replaced by empty ones, so that the environment needs none of the three.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import warnings
from typing import Any

NOT_NEEDED = ("lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron", "lava.lib.dl.slayer.neuron.rf")
"""Parents first."""
SEQUENTIAL = "lava.lib.dl.netx.sequential_modules"


def prepare() -> None:
    """Call once, before anything of lava is imported."""
    _allow_unhashable_defaults()
    for name in (*NOT_NEEDED, SEQUENTIAL):
        module = types.ModuleType(name, "Left out: see hardware.loihi.lava_import.")
        module.__path__ = []
        module.__file__ = __file__  # lava looks through the files of its modules
        sys.modules[name] = module
    sys.modules[NOT_NEEDED[-1]].__dict__["neuron_params"] = _refuse
    warnings.filterwarnings("ignore", message="Loihi2HWProfiler could not be imported")
    warnings.filterwarnings("ignore", message="Cannot import module .*sequential_modules")


def _refuse(*_arguments: Any) -> None:
    raise NotImplementedError("resonate-and-fire neurons are left out of this environment")


def _allow_unhashable_defaults() -> None:
    original: Any = dataclasses._get_field  # type: ignore[attr-defined]  # noqa: SLF001 - no public hook

    def get_field(cls: type, name: str, *rest: Any) -> Any:
        default = getattr(cls, name, dataclasses.MISSING)
        kind: Any = type(default)
        if cls.__module__.startswith("lava.") and kind.__hash__ is None and kind not in {list, dict, set}:
            kind.__hash__ = object.__hash__
        return original(cls, name, *rest)

    dataclasses._get_field = get_field  # type: ignore[attr-defined]  # noqa: SLF001

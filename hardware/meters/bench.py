"""Drivers of bench meters: packages of their makers that are imported only when their meter is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from hardware.power import SampleError


def driver_of(module: str, package: str = "") -> Any:
    """A driver's module.

    Args:
        module: What is imported.
        package: What is installed, where it has another name.

    Raises:
        SampleError: It is not installed, or does not load; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        wanted = package or module
        raise SampleError(f"its driver is not installed ({error}): pip install {wanted}") from error

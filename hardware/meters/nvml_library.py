"""The few functions of NVIDIA's management library (NVML) that the energy meter needs, through ctypes.

``libnvidia-ml.so.1`` comes with the driver, so nothing is installed and nothing is loaded before a meter asks.

Source: NVIDIA, NVML API Reference: nvmlInit_v2, nvmlDeviceGetCount_v2, nvmlDeviceGetHandleByIndex_v2,
nvmlDeviceGetName, nvmlDeviceGetUUID, nvmlDeviceGetTotalEnergyConsumption ("in millijoules (mJ) since the driver was
last reloaded; for Volta or newer fully supported devices").
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol

from hardware.counter_meter import CounterError

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = "libnvidia-ml.so.1"
TEXT_BYTES = 96
"""Room for a name or UUID; NVML asks for at most 96 (NVML_DEVICE_NAME_V2_BUFFER_SIZE)."""

NOT_SUPPORTED = 3
REMEDIES = {
    1: "the library was not initialised",
    NOT_SUPPORTED: "this GPU does not count its energy: that needs Volta or later, and no Jetson before JetPack 7",
    4: "no permission: ask for access to /dev/nvidia*, in a container 'docker run --gpus all'",
    9: "the driver is not loaded: 'nvidia-smi' says more",
    15: "the GPU fell off the bus: restart the machine",
    18: "library and driver are of different versions: restart after the driver's update",
}
"""What to say to the return codes (nvmlReturn_t) that users meet."""


class NvmlError(CounterError):
    """NVML gave no figure; the message says why."""


class Library(Protocol):
    """What the meter asks of NVML."""

    def count(self) -> int:
        """Number of GPUs."""

    def title(self, index: int) -> tuple[str, str]:
        """Name and UUID of a GPU."""

    def energy_mj(self, index: int) -> int:
        """Its energy counter, in millijoules.

        Raises:
            NvmlError: It has none, or does not answer; as do all the others.
        """


class CtypesLibrary:
    """NVML of this machine.

    Args:
        load: Loads a shared library by name; replaced in tests.

    Raises:
        NvmlError: The library or the driver is not there.
    """

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        try:
            self._nvml = load(LIBRARY)
        except OSError as error:
            raise NvmlError(f"no {LIBRARY}: needs an NVIDIA GPU and its driver ({error})") from error
        self._ask("nvmlInit_v2")

    def count(self) -> int:
        """Number of GPUs."""
        number = ctypes.c_uint()
        self._ask("nvmlDeviceGetCount_v2", ctypes.byref(number))
        return number.value

    def title(self, index: int) -> tuple[str, str]:
        """Name and UUID."""
        device = self._device(index)
        texts = []
        for function in ("nvmlDeviceGetName", "nvmlDeviceGetUUID"):
            room = ctypes.create_string_buffer(TEXT_BYTES)
            self._ask(function, device, room, ctypes.c_uint(TEXT_BYTES))
            texts.append(room.value.decode("utf-8", errors="replace"))
        return texts[0], texts[1]

    def energy_mj(self, index: int) -> int:
        """Energy counter in millijoules."""
        counter = ctypes.c_ulonglong()
        self._ask("nvmlDeviceGetTotalEnergyConsumption", self._device(index), ctypes.byref(counter))
        return counter.value

    def _device(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._ask("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def _ask(self, function: str, *arguments: object) -> None:
        try:
            call = getattr(self._nvml, function)
        except AttributeError as error:
            raise NvmlError(f"{LIBRARY} has no {function}: the driver is too old") from error
        code = int(call(*arguments))
        if code != 0:
            raise NvmlError(
                f"{function} returned {code}: {REMEDIES.get(code, 'see nvmlReturn_t of the NVML reference')}"
            )

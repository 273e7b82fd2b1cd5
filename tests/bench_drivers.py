"""Bench instruments without instruments: fakes with the names, parameters and units of their makers' drivers.

Taken from pyjoulescope_driver 2.2.12, ppk2-api 0.9.2 and otii-tcp-client 1.0.13. Where a driver is installed,
`tests/unit/test_hardware_bench.py` holds these against it.
"""
# ruff: noqa: ARG002 - parameters are the drivers' own

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any


class JoulescopeDriver:
    """`pyjoulescope_driver.Driver` with instruments of these paths."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self.open_paths: list[str] = []
        self.published: list[tuple[str, Any]] = []
        self.subscribed: dict[str, Callable[[str, Any], None]] = {}
        self.finalized = False

    def device_paths(self, timeout: float | None = None) -> list[str]:
        return list(self._paths)

    def open(self, device_prefix: str, mode: str | None = None, timeout: float | None = None) -> None:
        if device_prefix not in self._paths:
            raise RuntimeError("jsdrv_open failed 10 NOT_FOUND")
        self.open_paths.append(device_prefix)

    def close(self, device_prefix: str, timeout: float | None = None) -> None:
        self.open_paths.remove(device_prefix)

    def publish(self, topic: str, value: Any, timeout: float | None = None) -> None:
        self.published.append((topic, value))

    def subscribe(self, topic: str, flags: str, fn: Callable[[str, Any], None], timeout: float | None = None) -> None:
        assert flags == "pub"
        self.subscribed[topic] = fn

    def unsubscribe(self, topic: str, fn: Callable[[str, Any], None], timeout: float | None = None) -> None:
        assert self.subscribed.pop(topic) == fn

    def finalize(self, timeout: float | None = None) -> None:
        self.finalized = True

    def report(self, power_w: float, energy_j: float) -> None:
        """One statistics message, of the parts that the driver's own entry point `statistics` reads."""
        for topic, fn in self.subscribed.items():
            fn(
                topic,
                {
                    "signals": {"power": {"avg": {"value": power_w, "units": "W"}}},
                    "accumulators": {"energy": {"value": energy_j, "units": "J"}},
                },
            )


class PPK2_API:  # noqa: N801 - the driver's own name
    """`ppk2_api.ppk2_api.PPK2_API`: four bytes a sample, which here are the current in microamperes."""

    ports: tuple[str, ...] = ("/dev/ttyACM0",)

    def __init__(self, port: str, **kwargs: Any) -> None:
        if port not in self.ports:
            raise OSError(13, "Permission denied", port)
        self.calls: list[Any] = []
        self.pending = b""
        self.current_vdd: int | None = None

    @staticmethod
    def list_devices() -> list[str]:
        return list(PPK2_API.ports)

    def get_modifiers(self) -> bool:
        self.calls.append("modifiers")
        return True

    def use_ampere_meter(self) -> None:
        self.calls.append("ampere")

    def set_source_voltage(self, mV: int) -> None:
        self.current_vdd = mV

    def start_measuring(self) -> None:
        assert self.current_vdd, "Input voltage not set!"
        self.calls.append("start")

    def stop_measuring(self) -> None:
        self.calls.append("stop")

    def get_data(self) -> bytes:
        data, self.pending = self.pending, b""
        return data

    def get_samples(self, buf: bytes) -> tuple[list[float], list[int]]:
        whole = len(buf) // 4
        return [float(value) for value in struct.unpack(f"<{whole}I", buf[: 4 * whole])], [0] * whole

    def flow(self, *currents_ua: int) -> None:
        """These samples come in over USB."""
        self.pending += struct.pack(f"<{len(currents_ua)}I", *currents_ua)


class Arc:
    """`otii_tcp_client.arc.Arc`."""

    def __init__(self, name: str, values: dict[str, float]) -> None:
        self.name, self.values = name, values

    def get_value(self, channel: str) -> float:
        return self.values[channel]


class OtiiClient:
    """`otii_tcp_client.otii_client.OtiiClient`; `connect` gives the object with `get_devices`."""

    devices: tuple[Arc, ...] = ()
    fault: Exception | None = None

    def __init__(self) -> None:
        self.connected = False

    def connect(self, *, try_for_seconds: int = 10) -> OtiiClient:
        if self.fault is not None:
            raise self.fault
        self.connected = True
        return self

    def get_devices(self, timeout: int = 10, devicefilter: list[str] | None = None) -> list[Arc]:
        return list(self.devices)

    def disconnect(self) -> None:
        self.connected = False

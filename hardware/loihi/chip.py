"""Runs a network by lava: on a Loihi 2 where lava finds one, else in its fixed-point simulator.

Imported in lava's environment only, after `hardware.loihi.lava_import.prepare()`. The branch for hardware follows
Intel's published tutorials (netx spike input through `lava.proc.embedded_io`, power by
`lava.utils.loihi2_profiler.Loihi2Power`); the closed extension that it needs was never at hand: it has not been run.

A sample's input at step t reaches layer i at step t + i + 1. All samples follow one another without a gap, and each
layer forgets its membranes when the first current of a new sample arrives (`LIFReset`, one step later a layer).
"""

from __future__ import annotations

import importlib
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from lava.lib.dl import netx
from lava.lib.dl.netx import hdf5 as netx_hdf5  # noqa: F401 - netx.hdf5 is reached through its package
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg
from lava.proc import io
from lava.utils import loihi

from hardware.loihi import hdf5
from hardware.loihi.cuba import Spikes, check_input
from hardware.loihi.description import ChipNetwork
from hardware.loihi.request import Answer, Where

NETWORK_FILE = "network.net"
_LAVA_LOG = "lava.magma.runtime.runtime"


def run(
    network: ChipNetwork, spikes: Spikes, folder: Path, versions: dict[str, str]
) -> tuple[Answer, tuple[Spikes, ...]]:
    """Runs samples through a network and records spikes: of all layers in the simulator, of the last one on hardware.

    Args:
        network: The network.
        spikes: `[N, T, *inputs]`.
        folder: Takes the network's HDF5 file.
        versions: For the answer.

    Returns:
        The answer, and per recorded layer `[N, T, *outputs]`.
    """
    check_input(network, spikes)
    hdf5.write(network, folder / NETWORK_FILE)
    samples, steps = spikes.shape[:2]
    total = samples * steps + len(network.layers)  # the last steps empty the layers
    net = _opened(folder / NETWORK_FILE, steps)
    hardware = loihi.is_installed()
    recorded = (len(network.layers) - 1,) if hardware else tuple(range(len(network.layers)))
    source = io.source.RingBuffer(data=_as_lava(spikes, len(network.layers)))
    sinks = [_recorder(net.layers[index].out, total, hardware=hardware) for index in recorded]
    _feed(source, net, image=len(network.inputs) == 3, hardware=hardware)
    power = _Power(total) if hardware else None
    began_s = time.monotonic()
    found = _recorded(net, sinks, total, power)
    duration_s = time.monotonic() - began_s
    trains = tuple(
        _as_ours(data[..., index + 1 : index + 1 + samples * steps], samples, network.layers[index].shape.outputs)
        for index, data in zip(recorded, found, strict=True)
    )
    energy = power.energy(total) if power else {"no_energy": "lava's profiler measures hardware only"}
    where: Where = "hardware" if hardware else "simulator"
    return Answer(where=where, recorded=recorded, duration_s=duration_s, versions=versions, **energy), trains


def _opened(path: Path, steps: int) -> Any:
    net = netx.hdf5.Network(net_config=str(path), reset_interval=steps, reset_offset=1)
    net._log_config.level = logging.INFO  # noqa: SLF001 - what fails in lava's workers is told at this level only
    logging.getLogger(_LAVA_LOG).addHandler(logging.StreamHandler())
    return net


def _recorded(net: Any, sinks: list[Any], steps: int, power: _Power | None) -> list[Any]:
    config = Loihi2HwCfg(callback_fxs=power.callbacks) if power else Loihi2SimCfg(select_tag="fixed_pt")
    net.run(condition=RunSteps(num_steps=steps), run_cfg=config)
    found = [np.array(sink.data.get()) for sink in sinks]
    net.stop()  # only now: after an error it waits for ever, and the host ends this process's group anyway
    return found


def _as_lava(spikes: Spikes, padding: int) -> Any:
    """`[N, T, C, H, W]` as (W, H, C, N T + padding), `[N, T, inputs]` as (inputs, N T + padding)."""
    steps = spikes.reshape(-1, *spikes.shape[2:]).T
    return np.pad(steps, [(0, 0)] * (steps.ndim - 1) + [(0, padding)]).astype(np.int32)


def _as_ours(data: Any, samples: int, outputs: tuple[int, ...]) -> Spikes:
    """The way back."""
    found: Spikes = (data.T != 0).astype(np.uint8).reshape(samples, -1, *outputs)
    return found


def _recorder(port: Any, steps: int, *, hardware: bool) -> Any:
    sink = io.sink.RingBuffer(shape=port.shape, buffer=steps)
    if hardware:
        adapter = _embedded_io().spike.NxToPyAdapter(shape=port.shape)
        port.connect(adapter.inp)
        port = adapter.out
    port.connect(sink.a_in)
    return sink


def _feed(source: Any, net: Any, *, image: bool, hardware: bool) -> None:
    port = source.s_out
    if hardware:
        spike = _embedded_io().spike
        adapter = (spike.PyToN3ConvAdapter if image else spike.PyToNxAdapter)(shape=net.inp.shape)
        port.connect(adapter.inp)
        port = adapter.out
    port.connect(net.inp)


def _embedded_io() -> Any:
    """Spikes to and from the chip; comes with the closed extension."""
    return importlib.import_module("lava.proc.embedded_io")


class _Power:
    """Lava's power and time probes of a Loihi 2 board."""

    def __init__(self, steps: int) -> None:
        profiler: Any = importlib.import_module("lava.utils.loihi2_profiler")
        self._power = profiler.Loihi2Power(num_steps=steps)
        self._time = profiler.Loihi2ExecutionTime()
        self.callbacks = [self._power, self._time]

    def energy(self, steps: int) -> dict[str, Any]:
        """Fields of an `Answer`: mean watts times the steps' time, which the probe gives in microseconds."""
        power_w = float(np.mean(self._power.total_power))
        seconds = float(self._time.avg_time_per_step) * 1e-6 * steps
        if not (np.isfinite(power_w) and power_w > 0 and np.isfinite(seconds) and seconds > 0):
            return {"no_energy": f"lava's profiler gave {power_w} W over {seconds} s: no energy follows from that"}
        return {"energy_j": power_w * seconds, "energy_s": seconds}

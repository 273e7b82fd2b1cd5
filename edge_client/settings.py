"""What a device is told: one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from contract.link import LinkSettings
from contract.messages import Name
from edge_client.sensors.settings import SensorSettings
from edge_client.sleep import SleepSettings


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one device.

    Attributes:
        run: Run to take part in.
        node: Name of this device in the run; no two devices share one.
        link: The broker.
        directory: Folder of this device alone in this run: outbox, receipts, journal.
        shard: Which part of the training samples is this device's, from 0.
        shards: Into how many parts they are dealt.
        sensor: Where the device's own samples come from, for a task whose data set is `own`: a table, see
            `edge_client.sensors.settings`, or `FILE.py:FACTORY`. Such a device has all of them, and no shard.
        engine: What computes gradients, a key of `edge_client.engine.ENGINES`: `onnx` runs the graph that the server
            exported, `torch` differentiates here, `loihi` is `onnx` with inference on a Loihi 2 or its simulation.
        infer_samples: Read by engine `loihi`: how many of its own samples the device classifies by each new model.
        meter: The energy meter, as `hardware.meter.open_meters` takes it; several side by side are joined by ``+``.
        baseline_s: Before it reports for work, the device does nothing for so many seconds and measures its idle power;
            0 leaves that out. Without a meter it does not wait. A plug needs fifteen of its reports.
        energy_profile: Energy table of the modelled readings: a profile's name, or the path of a file of your own that
            ends in `.toml`.
        radio_mbit_s: Rate of the link, in Mbit/s, at which modelled sending lasts; `None` takes the time until the
            acknowledgement, an upper bound that hangs on how busy broker and server are.
        board: What this device is, shown in the report.
        lpips: ONNX file with LPIPS and its weights, made as `contract.perceptual` says: scores carry LPIPS then.
        publish_truth: Lab mode: also publish the true samples that a score names.
        threads: CPU threads of the engine.
        seed: Makes the names of updates and all draws (batches, encoding, stochastic rounding) repeatable: for studies.
            Whoever knows it can repeat a rate encoding and read the input off the spikes, so a device in the field
            has none: `None` draws from the system.
        receipts_kept: Receipts that may wait for a score before the oldest is dropped.
        fellows: Whether a fellow client's attack on successive models is run (`vantages` of the server): a receipt of a
            round that moves the model then waits for its score as well.
        sleep: Duty cycle between rounds; `None` stays awake.
        sync: Whether what is stored is on the disk before the device goes on. Without it what is stored survives a
            process that is killed, but not a power cut: for emulated devices, never for a board.
        graphs: Folder of the task's graphs; devices of one machine may share it. `None`: in `directory`.
        emulates: The board that this device stands in for. What a meter measures here is then of another machine than
            that: its readings are labelled `emulated`. Empty: it is the board itself.
    """

    run: Name
    node: Name
    link: LinkSettings = LinkSettings()
    directory: Path
    shard: Annotated[int, Meta(ge=0)] = 0
    shards: Annotated[int, Meta(ge=1)] = 1
    sensor: SensorSettings | str | None = None
    engine: str = "onnx"
    meter: str = "none"
    baseline_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    energy_profile: str = "horowitz-45nm"
    radio_mbit_s: Annotated[float, Meta(gt=0)] | None = None
    board: str = ""
    lpips: Path | None = None
    publish_truth: bool = False
    threads: Annotated[int, Meta(ge=1)] = 1
    seed: Annotated[int, Meta(ge=0)] | None = None
    receipts_kept: Annotated[int, Meta(ge=1)] = 1024
    fellows: bool = False
    infer_samples: Annotated[int, Meta(ge=1)] = 32
    sleep: SleepSettings | None = None
    sync: bool = True
    graphs: Path | None = None
    emulates: str = ""

    def __post_init__(self) -> None:
        if self.shard >= self.shards:
            raise ValueError(f"shard = {self.shard} of shards = {self.shards}: shards are counted from 0; set less")
        if self.sensor is not None and self.shards > 1:
            raise ValueError(
                f"shards = {self.shards} with sensor: a device's own samples are not dealt; leave shards out"
            )

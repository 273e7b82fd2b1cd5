"""What a device is told: one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from contract.link import LinkSettings
from contract.messages import Name
from edge_client.sensors.settings import SensorSettings


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
            exported, `torch` differentiates here.
        meter: The energy meter, as `hardware.meter.open_meter` takes it.
        energy_profile: Energy table of the modelled readings.
        board: What this device is, shown in the report.
        lpips: ONNX file with LPIPS and its weights, made as `contract.perceptual` says: scores carry LPIPS then.
        publish_truth: Lab mode: also publish the true samples that a score names.
        threads: CPU threads of the engine.
        seed: Makes the names of updates and all draws (batches, encoding, stochastic rounding) repeatable: for studies.
            Whoever knows it can repeat a rate encoding and read the input off the spikes, so a device in the field
            has none: `None` draws from the system.
        receipts_kept: Receipts that may wait for a score before the oldest is dropped.
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
    energy_profile: str = "horowitz-45nm"
    board: str = ""
    lpips: Path | None = None
    publish_truth: bool = False
    threads: Annotated[int, Meta(ge=1)] = 1
    seed: Annotated[int, Meta(ge=0)] | None = None
    receipts_kept: Annotated[int, Meta(ge=1)] = 1024

    def __post_init__(self) -> None:
        if self.shard >= self.shards:
            raise ValueError(f"shard = {self.shard} of shards = {self.shards}: shards are counted from 0; set less")
        if self.sensor is not None and self.shards > 1:
            raise ValueError(
                f"shards = {self.shards} with sensor: a device's own samples are not dealt; leave shards out"
            )

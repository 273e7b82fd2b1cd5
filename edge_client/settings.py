"""What a device is told: one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from contract.link import LinkSettings
from contract.messages import Name


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one device.

    Attributes:
        run: Run to take part in.
        node: Name of this device in the run; no two devices share one.
        link: The broker.
        directory: Folder of this device alone in this run: outbox, receipts, journal.
        shard: Which part of the training samples is this device's, from 0.
        shards: Into how many parts they are dealt.
        engine: What computes gradients, a key of `edge_client.engine.ENGINES`: `onnx` runs the graph that the server
            exported, `torch` differentiates here, `loihi` is `onnx` with inference on a Loihi 2 or its simulation.
        infer_samples: Read by engine `loihi`: how many of its own samples the device classifies by each new model.
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
    shard: Annotated[int, Meta(ge=0)]
    shards: Annotated[int, Meta(ge=1)]
    engine: str = "onnx"
    meter: str = "none"
    energy_profile: str = "horowitz-45nm"
    board: str = ""
    lpips: Path | None = None
    publish_truth: bool = False
    threads: Annotated[int, Meta(ge=1)] = 1
    seed: Annotated[int, Meta(ge=0)] | None = None
    receipts_kept: Annotated[int, Meta(ge=1)] = 1024
    infer_samples: Annotated[int, Meta(ge=1)] = 32

    def __post_init__(self) -> None:
        if self.shard >= self.shards:
            raise ValueError(f"shard = {self.shard} of shards = {self.shards}: shards are counted from 0; set less")

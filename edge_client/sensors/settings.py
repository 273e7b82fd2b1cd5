"""`[sensor]`: where a device's own samples come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from contract.errors import ConfigurationError

Kind = Literal["folder", "csv", "python"]


class SensorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a device's own data. `sensor = "FILE.py:FACTORY"` is short for a table with kind, path and factory.

    Attributes:
        kind: `folder` of files, one a sample; `csv`, a table with a line a reading; `python`, the user's own file.
        path: The folder or file, from where the device is started unless it is absolute.
        factory: Name of the callable in the file; read for `python` only. It takes nothing and returns an iterable of
            pairs: an array of the task's shape in [0, 1], and a label.
        labels: Names of the classes in their order; without them labels are class numbers. The same on all devices.
        low: Reading that becomes 0; read for `.npy` files and tables.
        high: Reading that becomes 1; likewise.
        channels: Columns of the table that are the channels, in their order; read for `csv` only.
        label: Column of the table that holds the label; read for `csv` only.
        stride: Lines from the begin of one sample to that of the next; `None`: as many as a sample has, so that none
            overlap. Read for `csv` only.
    """

    kind: Kind = "folder"
    path: Path
    factory: str = ""
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    channels: tuple[str, ...] = ()
    label: str = "label"
    stride: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} and high = {self.high}: low must be less")
        if (self.kind == "python") != bool(self.factory):
            raise ValueError(
                f"kind = {self.kind!r} and factory = {self.factory!r}: kind 'python' names a factory, no other does"
            )
        if (self.kind == "csv") != bool(self.channels):
            raise ValueError(
                f"kind = {self.kind!r} and channels = {list(self.channels)}: kind 'csv' names columns, no other does"
            )

    @classmethod
    def of(cls, sensor: SensorSettings | str) -> SensorSettings:
        """The settings that `FILE.py:FACTORY` stands for; a table stands for itself.

        Raises:
            ConfigurationError: A string of another form.
        """
        if isinstance(sensor, SensorSettings):
            return sensor
        path, colon, factory = sensor.rpartition(":")
        if not (path and colon and factory.isidentifier()):
            raise ConfigurationError(
                f"sensor = {sensor!r}: expected 'FILE.py:FACTORY', or a table [sensor] (edge_client/sensors/README.md)"
            )
        return cls(kind="python", path=Path(path), factory=factory)

    @property
    def named(self) -> str:
        """The sensor, for errors."""
        return f"sensor {self.path}:{self.factory}" if self.factory else f"sensor {self.path}"

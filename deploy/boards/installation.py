"""What `spikeleak enroll device` adds to the bundles of boards: wheels, settings of a run, first-boot files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from deploy.boards import wheelhouse
from deploy.boards.cloud_init import user_data
from deploy.boards.payload import Payload, device_tables

WHEELHOUSE = "wheelhouse"
"""Folder of wheelhouses in an enrolment folder."""


class Parts(TypedDict):
    """What one device's bundle gets."""

    payload: Payload | None
    further: dict[str, bytes]


NOTHING = Parts(payload=None, further={})
"""Of a device that is not a board's, or whose board is installed otherwise."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What the boards of one command install.

    Attributes:
        machine: Their processor.
        python: Their Python.
        run: Run that they take part in; each gets one shard of the samples, in the order of the command.
        datasets: Data sets that they get as files.
        settings: Further keys of each device's TOML.
        own_wheel: This project's wheel; `None` builds it.
        pip_args: Options of pip.
        cloud_init: Whether first-boot files are made.
        ssh_keys: Public keys for these.
        ntp_servers: Time servers for these.
    """

    machine: wheelhouse.Machine = "aarch64"
    python: wheelhouse.Python = "3.11"
    run: str
    datasets: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    own_wheel: Path | None = None
    pip_args: str = ""
    cloud_init: bool = False
    ssh_keys: tuple[str, ...] = ()
    ntp_servers: tuple[str, ...] = ()

    def parts(self, out: Path, nodes: Sequence[str], host: str, port: int) -> dict[str, Parts]:
        """What each bundle gets, by device. Makes the wheelhouse in the enrolment folder `out`.

        Raises:
            ConfigurationError: A name or setting cannot be used.
            EnvironmentFaultError: Wheels or data are not to be had.
        """
        tables = {
            node: device_tables(
                node, host=host, port=port, run=self.run, shard=at, shards=len(nodes), own=self.settings
            )
            for at, node in enumerate(nodes)
        }
        further = {
            node: user_data(node, ssh_keys=self.ssh_keys, ntp_servers=self.ntp_servers) if self.cloud_init else {}
            for node in nodes
        }
        house = wheelhouse.build(
            out / WHEELHOUSE, self.machine, self.python, own=self.own_wheel, pip_args=self.pip_args
        )
        return {
            node: Parts(
                payload=Payload(node=node, settings=tables[node], wheelhouse=house, datasets=self.datasets),
                further=further[node],
            )
            for node in nodes
        }

"""The boards of an inventory, as Ansible reads it, with what this project wants to know of each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from contract.errors import ConfigurationError
from contract.topics import valid_name
from deploy.boards.playbook import environment, program
from deploy.boards.wheelhouse import MACHINES, PYTHONS, Machine, Python


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """A board.

    Attributes:
        name: Its name in the inventory: its device's.
        address: Where ssh finds it.
        machine: Processor that its wheels are for.
        python: Python that they are for.
        datasets: Data sets that it gets as files.
        settings: Further keys of its device's TOML.
    """

    name: str
    address: str
    machine: Machine
    python: Python
    datasets: tuple[str, ...] = ()
    settings: dict[str, Any] = {}


def read(path: Path) -> tuple[Board, ...]:
    """All boards, in the inventory's order.

    Raises:
        ConfigurationError: No inventory, none with boards, or a value in it that cannot be used; names the board.
    """
    if not path.exists():
        raise ConfigurationError(
            f"--inventory {path}: no such file; deploy/ansible/inventory.example.yml is one to copy"
        )
    line = [program("ansible-inventory"), "--inventory", str(path), "--list"]
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=environment())
    told = json.loads(done.stdout) if done.returncode == 0 else {}
    groups = [group for name, group in told.items() if name != "_meta"]
    names = list(dict.fromkeys(host for group in groups for host in group.get("hosts", ())))
    if not names:
        said = " ".join(done.stderr.split())[:300]
        raise ConfigurationError(f"--inventory {path}: holds no boards{f' ({said})' if said else ''}")
    values = told["_meta"]["hostvars"]
    return tuple(_board(path, name, values.get(name, {})) for name in names)


def chosen(boards: Sequence[Board], names: Sequence[str], path: Path) -> list[Board]:
    """The boards with these names; all when there are none.

    Raises:
        ConfigurationError: A name that the inventory does not hold.
    """
    known = {board.name: board for board in boards}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"board {name!r}: not in {path}; it holds: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(boards)


def _board(path: Path, name: str, values: dict[str, Any]) -> Board:
    if not valid_name(name):
        raise ConfigurationError(f"{path}: board {name!r}: a board has its device's name; its address is ansible_host")
    user, host = values.get("ansible_user"), values.get("ansible_host", name)
    told = {
        "name": name,
        "address": (f"{user}@" if user else "") + str(host) + _port(values),
        "machine": values.get("spikeleak_machine", MACHINES[0]),
        "python": str(values.get("spikeleak_python", PYTHONS[0])),
        "datasets": values.get("spikeleak_data", ()),
        "settings": values.get("spikeleak_device", {}),
    }
    try:
        return msgspec.convert(told, Board)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{path}: board {name}: {error}; spikeleak_machine is one of {', '.join(MACHINES)}, spikeleak_python "
            f"one of {', '.join(PYTHONS)}, spikeleak_data a list of names, spikeleak_device a map"
        ) from error


def _port(values: dict[str, Any]) -> str:
    return f":{values['ansible_port']}" if "ansible_port" in values else ""

"""Runs one of the playbooks in `deploy/ansible/` and says what became of each board."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError

FOLDER = Path(__file__).resolve().parents[1] / "ansible"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One task on one board, as `callback_plugins/board_events.py` writes it.

    Attributes:
        event: What became of it.
        board: The board.
        task: The task's name.
        text: Why it failed.
        output: What its command wrote.
        told: What the playbook says of the board.
        ignored: Whether the playbook goes on from a failure.
    """

    event: Literal["started", "ok", "failed", "unreachable", "skipped"]
    board: str
    task: str
    text: str = ""
    output: str = ""
    told: dict[str, Any] = {}
    ignored: bool = False


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a board did not do what was asked; `text` names the cause and what to do."""

    board: str
    text: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a playbook did.

    Attributes:
        events: All that ended, in order.
        faults: The first fault of each board that has one.
    """

    events: tuple[Event, ...]
    faults: dict[str, Fault]

    def last(self, board: str, task: str) -> Event | None:
        """The last word of a task on a board."""
        return next((it for it in reversed(self.events) if (it.board, it.task, it.event) == (board, task, "ok")), None)


def program(name: str) -> str:
    """Path of one of Ansible's programs: on PATH, or beside the Python that runs.

    Raises:
        ConfigurationError: It is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = shutil.which(name) or (str(beside) if os.access(beside, os.X_OK) else None)
    if found is None:
        raise ConfigurationError(
            f"{name} is not installed: pip install 'spikeleak[deploy]' (or apt install ansible-core)"
        )
    return found


def run(
    name: str,
    inventory: Path,
    boards: Sequence[str],
    values: Mapping[str, Any],
    *,
    show: Callable[[Event], None] = lambda _event: None,
    addresses: Mapping[str, str] | None = None,
) -> Outcome:
    """Runs a playbook on boards.

    Args:
        name: Of the playbook, without `.yml`.
        inventory: Ansible's inventory.
        boards: The boards of it that are meant.
        values: Variables.
        show: Sees each event at once.
        addresses: Where each board is, for messages.

    Raises:
        ConfigurationError: Ansible is not installed.
        EnvironmentFaultError: Ansible itself failed.
    """
    command = [program("ansible-playbook"), "--inventory", str(inventory), "--limit", ",".join(boards)]
    command += ["--extra-vars", json.dumps(dict(values)), str(FOLDER / f"{name}.yml")]
    events, faults, other = list[Event](), dict[str, Fault](), list[str]()
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for event in _events(process.stdout, other):
            show(event)
            if event.event != "started":
                events.append(event)
            if event.event in {"failed", "unreachable"} and not event.ignored and event.board not in faults:
                faults[event.board] = _fault(event, (addresses or {}).get(event.board, ""))
    if process.returncode and not faults:
        said = " ".join(line.strip() for line in other if line.strip())[-600:]
        raise EnvironmentFaultError(f"ansible-playbook {name}.yml: exit status {process.returncode}: {said}")
    return Outcome(events=tuple(events), faults=faults)


def environment() -> dict[str, str]:
    """Ansible's: our settings alone, and the UTF-8 without which it does not start."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    passed = {key: value for key, value in os.environ.items() if key in _PASSED}
    return {**kept, **passed, "ANSIBLE_CONFIG": str(FOLDER / "ansible.cfg"), "LC_ALL": "C.UTF-8"}


_PASSED = (
    "ANSIBLE_PRIVATE_KEY_FILE",
    "ANSIBLE_HOST_KEY_CHECKING",
    "ANSIBLE_VAULT_PASSWORD_FILE",
    "ANSIBLE_REMOTE_USER",
)
"""What a user may say about ssh by Ansible's own variables."""


def _events(lines: Iterator[str] | Any, other: list[str]) -> Iterator[Event]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Event)
        except msgspec.DecodeError:
            other.append(line)


def _fault(event: Event, address: str) -> Fault:
    if event.event == "unreachable":
        where = f" at {address}" if address else ""
        return Fault(board=event.board, text=f"not reached{where}: {_ssh(event.text)}")
    said = event.text if event.text and event.text != "non-zero return code" else ""
    lines = [line for line in event.output.splitlines() if line.strip()]
    own = [line.removeprefix(f"{event.board}: ") for line in lines if line.startswith(f"{event.board}: ")]
    text = own[-1] if own else said or " ".join(lines[-2:]) or "no reason given"
    return Fault(board=event.board, text=f"{event.task}: {text}" if text == said and event.task not in text else text)


_REMEDIES = {
    "Host key verification failed": "unknown or another host key: ssh to it once by hand and compare fingerprints",
    "REMOTE HOST IDENTIFICATION": "its host key is another than before: is it the same board? then ssh-keygen -R HOST",
    "Permission denied": "give this machine's public key to the account (ssh-copy-id), or correct ansible_user",
    "Could not resolve hostname": "correct ansible_host in the inventory",
    "Connection refused": "nothing listens there: is ssh enabled on it, and ansible_port right?",
    "timed out": "is it switched on and on this network? is ansible_host right?",
    "No route to host": "is it switched on and on this network? is ansible_host right?",
}


def _ssh(text: str) -> str:
    """What ssh said and what to do about it."""
    said = [line.strip() for line in text.replace("\\r\\n", "\n").splitlines() if line.strip()]
    last = said[-1] if said else "ssh said nothing"
    last = last.rpartition("Failed to connect to the host via ssh: ")[2]
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words.lower() in text.lower()), "try ssh by hand")
    return f"{last.rstrip('.')}: {remedy}"

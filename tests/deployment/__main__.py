"""`make boards`: every command of `spikeleak deploy` on boards that boot systemd and are reached by ssh.

The boards are Debian roots in containers of this machine, each on a loopback address of its own; broker and server run
outside, with certificates of `spikeleak enroll`. What is checked is printed; the first thing that is wrong ends it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.deployment import debian
from tests.deployment.board import PACKAGES, USER, Board, booted
from tests.deployment.outside import Server, main, say, server
from tests.deployment.releases import broken, changed
from tests.enrolled_broker import EnrolledBroker, enrolled_broker

RUN = "shelf"
NAMES = ("board-1", "board-2")
SERVER = """
clients = 2
drain_s = 5.0
evaluate = false
[task]
dataset = "digits"
[task.encoding]
kind = "direct"
steps = 2
[task.model]
hidden = [16]
[[schedule]]
kind = "train"
rounds = 9000
local_steps = 2
learning_rate = 0.2
deadline_s = 2.0
"""


class Lab:
    """Broker, server, inventory, and the command that is tested."""

    def __init__(self, folder: Path, broker: EnrolledBroker, boards: list[Board], running: Server) -> None:
        self.folder, self.broker, self.boards = folder, broker, boards
        self.until, self.takes_part = running.until, running.takes_part
        self.inventory = self.write("boards.yml", {})

    def write(self, name: str, more: dict[str, str]) -> Path:
        ssh = f"-oUserKnownHostsFile={self.boards[0].key.parent / 'known_hosts'}"
        head = {
            "ansible_user": USER,
            "ansible_become": "true",
            "spikeleak_machine": "x86_64",
            "spikeleak_data": "[digits]",
        }
        head |= {"ansible_ssh_private_key_file": str(self.boards[0].key), "ansible_ssh_common_args": f'"{ssh}"'} | more
        lines = ["all:", "  vars:", *(f"    {key}: {value}" for key, value in head.items()), "  hosts:"]
        lines += [f"    {it.name}: {{ansible_host: {it.address}, ansible_port: {it.port}}}" for it in self.boards]
        (self.folder / name).write_text("\n".join(lines) + "\n")
        return self.folder / name

    def deploy(self, command: str, *words: str, status: int = 0, inventory: Path | None = None) -> str:
        """`spikeleak deploy …` without any capability of root; what it said."""
        line = [
            "setpriv",
            "--bounding-set=-all",
            "--inh-caps=-all",
            sys.executable,
            "-m",
            "deploy.cli",
            "deploy",
            command,
        ]
        if command in {"push", "update"}:
            words = (*words, "--enrolment", str(self.broker.folder), "--run", RUN)
        began_s = time.monotonic()
        done = subprocess.run(
            [*line, *words, "--inventory", str(inventory or self.inventory)],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        text = done.stdout + done.stderr
        assert done.returncode == status, f"deploy {command}: status {done.returncode}: {text}"
        say(f"deploy {command}", f"status {status}, {time.monotonic() - began_s:.0f} s")
        return text

    def status(self) -> list[dict[str, Any]]:
        """Each board as `deploy status --json` tells it, the broker asked."""
        text = self.deploy("status", "--json", "--enrolment", str(self.broker.folder))
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def push_and_status(lab: Lab) -> None:
    told = lab.deploy("push")
    for board in lab.boards:
        assert f"{board.name}: runs release" in told, told
        lab.takes_part(board.name)
    for seen in lab.status():
        say("", json.dumps(seen))
        assert (seen["unit"], seen["broker"], seen["differ"]) == ("online", "online", ""), seen
        assert abs(seen["clock_s"]) <= seen["clock_error_s"], seen
        assert seen["round"].endswith("/9000"), seen
    one = lab.boards[0]
    say("account", one.shell("ps -o user:20= -p $(systemctl show -P MainPID spikeleak-client)"))
    assert one.shell("ps -o uid= -p $(systemctl show -P MainPID spikeleak-client)").strip() != "0"
    exposure = one.shell("systemd-analyze security --no-pager spikeleak-client.service | tail -n 1").split(": ")[1]
    say("exposure (running unit)", exposure)
    assert float(exposure.split()[0]) < 2.0, exposure
    say("memory", one.shell("ps -o rss= -p $(systemctl show -P MainPID spikeleak-client)").strip() + " KiB resident")
    say("control group's memory", one.show("MemoryCurrent"))


def watchdog(lab: Lab) -> None:
    """A device that hangs is ended and started again."""
    board = lab.boards[0]
    board.shell(
        "mkdir -p /run/systemd/system/spikeleak-client.service.d && printf '[Service]\\nWatchdogSec=4\\n' "
        "> /run/systemd/system/spikeleak-client.service.d/short.conf && systemctl daemon-reload && "
        "systemctl restart spikeleak-client.service"
    )
    time.sleep(8)
    assert board.show("NRestarts") == "0", "a device that lives was ended by the watchdog"
    board.shell("kill -STOP $(systemctl show -P MainPID spikeleak-client)")
    lab.until(lambda: board.show("NRestarts") == "1", "a hung device was not started again")
    lab.until(lambda: board.show("ActiveState") == "active", "not active again")
    lab.takes_part(board.name)
    say("watchdog", "8 s alive with WatchdogSec=4: no restart; stopped by SIGSTOP: started again, takes part")
    board.shell("rm -r /run/systemd/system/spikeleak-client.service.d && systemctl daemon-reload")
    board.shell("systemctl restart spikeleak-client.service")


def sleeps(lab: Lab) -> None:
    """A device that sleeps for longer than its watchdog's time is let sleep; one that is told to stop wakes up."""
    board = lab.boards[0]
    toml = "/opt/spikeleak/current/device.toml"
    board.shell(
        f"cp {toml} /root/device.toml && printf '[sleep]\\nseconds = 15\\nafter_s = 0\\n' >> {toml} && "
        "mkdir -p /run/systemd/system/spikeleak-client.service.d && printf '[Service]\\nWatchdogSec=4\\n' "
        "> /run/systemd/system/spikeleak-client.service.d/short.conf && systemctl daemon-reload && "
        "systemctl restart spikeleak-client.service"
    )
    lab.until(lambda: "resting=yes" in board.show("StatusText"), "it does not go to sleep")
    began_s = time.monotonic()
    lab.until(lambda: "resting=yes" not in board.show("StatusText"), "it does not wake up")
    slept_s = time.monotonic() - began_s
    assert slept_s > 8, f"slept for {slept_s:.0f} s"
    assert board.show("NRestarts") == "0", "a device that sleeps was ended by the watchdog"
    lab.takes_part(board.name)
    say("sleep", f"{slept_s:.0f} s seen asleep with WatchdogSec=4: no restart; takes part afterwards")
    lab.until(lambda: "resting=yes" in board.show("StatusText"), "it does not go to sleep again")
    began_s = time.monotonic()
    board.shell("systemctl stop spikeleak-client.service")
    assert board.show("Result") == "success"
    say("stopped while asleep", f"in {time.monotonic() - began_s:.1f} s")
    board.shell(f"mv /root/device.toml {toml}")
    board.shell("rm -r /run/systemd/system/spikeleak-client.service.d && systemctl daemon-reload")
    board.shell("systemctl restart spikeleak-client.service")


def releases(lab: Lab) -> None:
    """A release that does not start, one that does, and the way back."""
    before = [board.shell("readlink /opt/spikeleak/current") for board in lab.boards]
    first = before[0]
    told = lab.deploy("update", "--wheel", str(broken(lab.folder)), status=1)
    say("", told.strip().splitlines()[-2])
    say("", told.strip().splitlines()[-1])
    assert "board-1: release 9.9.9-" in told, told
    assert "made to fail" in told, told
    assert f"rolled back: {first.removeprefix('releases/')} runs" in told, told
    assert "board-2: left alone" in told, told
    assert {board.shell("readlink /opt/spikeleak/current") for board in lab.boards} == set(before)
    lab.takes_part("board-1")
    told = lab.deploy("update", "--wheel", str(changed(lab.folder)))
    assert told.count("runs release 9.9.8-") == 2, told
    lab.takes_part("board-2")
    told = lab.deploy("rollback")
    assert f"board-1: release {first.removeprefix('releases/')} runs" in told, told
    assert lab.boards[0].shell("readlink /opt/spikeleak/current") == first
    lab.takes_part("board-1")


def refusals(lab: Lab) -> None:
    """Each names the board, the cause, and what to do."""
    one = lab.boards[0]
    wrong = '#!/bin/sh\\n/bin/date -d "+10 minutes" "$@"\\n'
    one.shell(f"printf '{wrong}' > /usr/local/bin/date && chmod 755 /usr/local/bin/date")
    for command in (("push", "board-1"), ("status",)):
        told = lab.deploy(*command, status=1)
        expect(told, "board-1: clock: the board is ", " s off this machine (limit 60 s)", "timedatectl")
        assert re.search(r"the board is (599|60\d)\.\d s", told), told
    one.shell("rm /usr/local/bin/date")
    other = lab.write("arm.yml", {"spikeleak_machine": "aarch64"})
    expect(lab.deploy("push", "board-1", status=1, inventory=other), "board-1: architecture: the board is x86_64")
    other = lab.write("python.yml", {"spikeleak_python": '"3.13"'})
    expect(lab.deploy("push", "board-1", status=1, inventory=other), "board-1: Python: python3.13 is not on the board")
    other = lab.write("host.yml", {})
    other.write_text(other.read_text().replace(lab.boards[1].address, "no-such-board.invalid"))
    expect(lab.deploy("status", status=1, inventory=other), "board-2: not reached", "correct ansible_host")
    lab.boards[1].stop()
    told = lab.deploy("push", status=1)
    expect(told, "board-2: not reached at lab@127.0.1.2:2222", "Connection refused")
    assert "board-1: runs release" in told, told
    lab.boards[1].start()
    lab.takes_part("board-2")
    say("after a restart", "board-2 takes part by itself")


def expect(text: str, *words: str) -> None:
    line = next((line for line in text.splitlines() if words[0] in line), "")
    assert line, f"{words}: {text}"
    assert all(word in line for word in words), f"{words}: {text}"
    say("", line)


def ends(lab: Lab) -> None:
    told = lab.deploy("logs", "-n", "3")
    assert "board-1  " in told, told
    lab.deploy("collect", "--out", str(lab.folder / "collected"))
    found = sorted(str(it.relative_to(lab.folder / "collected")) for it in (lab.folder / "collected").rglob("*"))
    assert "board-1/device.log" in found, found
    assert any("journal" in name for name in found), found
    assert not any("receipts" in name for name in found), found
    say("", f"{len(found)} files, no receipts")
    lab.deploy("collect", "--receipts", "--out", str(lab.folder / "all"))
    assert (lab.folder / "all/board-1/private/spikeleak" / RUN / "receipts").is_dir()
    lab.deploy("stop")
    assert {board.show("ActiveState") for board in lab.boards} == {"inactive"}


def _whole(made: Path, folder: Path) -> None:
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with (
        enrolled_broker(folder / "lab", *NAMES) as broker,
        booted(made, folder, key, *NAMES) as boards,
        server(folder, broker, RUN, SERVER) as running,
    ):
        lab = Lab(folder, broker, boards, running)
        for step in (push_and_status, watchdog, sleeps, releases, refusals, ends):
            step(lab)


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin"
    raise SystemExit(main("boards", __doc__, partial(debian.root, architecture="amd64", packages=PACKAGES), _whole))

"""`spikeleak deploy` as Ansible runs it, against boards behind an ssh of this test; `make boards` has real ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from contract import topics
from contract.errors import ConfigurationError
from contract.link import Link
from contract.messages import Message, NodeState, ServerState, encode
from deploy import enroll
from deploy.boards import playbook, presence
from deploy.broker import free_port
from deploy.deploy_command import deploy_app
from deploy.enrolment import Enrolment
from tests import fake_ssh
from tests.conftest import spikeleak
from tests.enrolled_broker import ACCOUNT, enrolled_broker
from tests.wheels import small_index

WRONG = {
    "arm-board": {"uname": "echo armv7l"},
    "old-python": {"python3_11": "exit 127"},
    "half-system": {"python3_11": "echo linux-armv8l"},
    "full-disk": {"df": "echo head; echo x 1 1 17 1 /"},
    "slow-clock": {"date": "/bin/date -d '10 minutes ago' \"$@\""},
    "fast-clock": {"date": "/bin/date -d '+10 minutes' \"$@\""},
    "not-root": {"id": "echo 1000"},
    "stranger": {"refused": "Host key verification failed."},
    "no-key": {"refused": "pi@no-key: Permission denied (publickey,password)."},
    "nameless": {"refused": "ssh: Could not resolve hostname nameless: Name or service not known"},
}
SAYS = {
    "arm-board": r"architecture: the board is armv7l, .* spikeleak_machine: aarch64.* install a 64-bit system",
    "old-python": r"Python: python3.11 is not on the board .* set spikeleak_python in the inventory",
    "half-system": r"architecture: the board's python3.11 is linux-armv8l, .* install a 64-bit system",
    "full-disk": r"disk: 17 KiB are free in /opt, \d+ KiB are needed: remove what is not needed",
    "slow-clock": r"clock: the board is -(599|60\d)\.\d s off this machine \(limit 60 s\).*timedatectl set-ntp true",
    "fast-clock": r"clock: the board is (599|60\d)\.\d s off this machine \(limit 60 s\).*timedatectl set-ntp true",
    "not-root": r"account pi did not become root: ansible_become: true in the inventory",
    "stranger": r"not reached at pi@stranger: Host key verification failed: .* ssh to it once by hand",
    "no-key": r"not reached at pi@no-key: .*Permission denied.*: .*public key",
    "nameless": r"not reached at pi@nameless: .*Could not resolve hostname.* correct ansible_host",
    "gone": r"not reached at pi@gone: .*No route to host: is it switched on",
}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    out = tmp_path / "lab"
    enroll.create(out, Enrolment(host="broker.lan", user=ACCOUNT, broker_folder=str(out / "broker")), days=1)
    enroll.add_devices(out, [*SAYS, "odd-one"], days=1, renewed=False)
    return out


def path_with(place: Path) -> str:
    return f"{place}:{os.environ['PATH']}"


def test_push_looks_at_each_board_and_names_it_with_cause_and_remedy(tmp_path: Path, lab: Path) -> None:
    ssh = fake_ssh.make(tmp_path / "ssh", **WRONG)
    boards = fake_ssh.inventory(tmp_path / "boards.yml", *SAYS)
    index = small_index(tmp_path / "index")
    words = ["--enrolment", str(lab), "--run", "trial", "--wheel", str(index.own)]
    done = spikeleak(
        "deploy",
        "push",
        "-i",
        str(boards),
        *words,
        PATH=path_with(ssh),
        PIP_ARGS=f"--no-index --find-links {index.folder}",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = {line.split(": ", 2)[1]: line.split(": ", 2)[2] for line in done.stderr.splitlines()}
    assert lines.keys() == SAYS.keys(), done.stderr
    for board, pattern in SAYS.items():
        assert re.search(pattern, lines[board]), f"{board}: {lines[board]}"
    assert "runs release" not in done.stdout
    assert not list(lab.glob(".pushing-*"))


SHOW = "printf 'ActiveState={}\\nSubState=x\\nResult={}\\nNRestarts={}\\nStatusText={}\\n'"
WORDS = "run=shelf broker=connected round=3/12 server=open published=3 pending=0 meter=ina226"
LINK = "echo /opt/spikeleak/releases/0.1.0-abc"


def supplies(folder: Path) -> Path:
    """What `/sys/class/power_supply` holds on a board with mains, a battery, one without gauge, and a mouse."""
    for name, files in {
        "AC": {"type": "Mains"},
        "BAT0": {"type": "Battery", "capacity": "87", "scope": "System"},
        "BAT1": {"type": "Battery"},
        "hid-mouse": {"type": "Battery", "capacity": "5", "scope": "Device"},
    }.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text + "\n")
    return folder


def test_status_of_boards_that_answer_and_one_that_does_not_and_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = fake_ssh.make(
        tmp_path / "ssh",
        well={"systemctl": SHOW.format("active", "success", 0, WORDS), "readlink": LINK, "timedatectl": "echo yes"},
        lost={
            "systemctl": SHOW.format("active", "success", 2, WORDS.replace("connected", "lost") + " resting=yes"),
            "readlink": LINK,
        },
        fallen={
            "systemctl": SHOW.format("failed", "exit-code", 0, ""),
            "readlink": LINK,
            "journalctl": "echo 'x INFO edge_client.device: round 7: update abc made, 9 bytes'; "
            "echo 'spikeleak-client: broker b:8883 not reached'",
            "vcgencmd": "echo throttled=0x50005",
            "date": "/bin/date -d '+10 minutes' \"$@\"",
        },
        bare={"systemctl": SHOW.format("inactive", "success", 0, ""), "readlink": "exit 1", "basename": "echo"},
    )
    boards = fake_ssh.inventory(tmp_path / "boards.yml", "well", "lost", "fallen", "bare", "gone")
    text, supply = boards.read_text(), supplies(tmp_path / "supply")
    empty = f"    spikeleak_power_supply: {tmp_path}\n  hosts:"
    boards.write_text(
        text.replace("  hosts:", empty).replace("well: {}", f"well: {{spikeleak_power_supply: {supply}}}")
    )
    port, folder = free_port(), tmp_path / "lab"
    here = Enrolment(host="127.0.0.1", port=port, user=ACCOUNT, broker_folder=str(folder / "broker"))
    enroll.create(folder, here, days=1)
    monkeypatch.setenv("PATH", path_with(ssh))
    monkeypatch.setattr(presence, "_REACH_S", 0.5)
    done = CliRunner().invoke(deploy_app, ["status", "-i", str(boards), "--enrolment", str(folder)])
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line.strip()}
    assert done.exit_code == 1, done.output
    charge = "BAT0 87 %, BAT1 unavailable(no capacity), meter ina226"
    for board, seen in {
        "well": ("online", f"unknown: broker 127.0.0.1:{port} unreachable", "3/12", charge, "0.1.0-abc", "within"),
        "lost": ("offline (broker lost), resting", "3/12", " 2 ", "meter ina226"),
        "fallen": ("failed (exit-code)", "7 (journal)", "undervoltage", "spikeleak-client: broker b:8883 not reached"),
        "bare": ("not installed", "unavailable(no battery, meter unknown)"),
        "gone": ("unreachable", "unavailable(no journal read)", "battery unavailable(not reached)"),
    }.items():
        assert all(text in rows[board] for text in seen), done.stdout
    assert "mouse" not in done.stdout
    said = rf"note: broker 127.0.0.1:{port} unreachable: not reached within 0.5 s \(.*refused\): start one there"
    assert re.search(said, done.stderr), done.stderr
    assert "error: gone: not reached at pi@gone" in done.stderr
    assert re.search(r"error: fallen: clock: the board is (599|60\d)\.\d s off", done.stderr), done.stderr


def status_of(boards: Path, lab: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """What `status --json` says of each board, and its notes."""
    done = CliRunner().invoke(deploy_app, ["status", "--json", "-i", str(boards), "--enrolment", str(lab)])
    assert done.exit_code == 1, done.output
    return {one["board"]: one for one in map(json.loads, done.stdout.splitlines())}, done.stderr


def test_status_asks_the_broker_too_and_says_where_it_contradicts_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = {"systemctl": SHOW.format("active", "success", 0, WORDS), "readlink": LINK}
    stopped = {"systemctl": SHOW.format("inactive", "success", 0, ""), "readlink": LINK}
    ssh = fake_ssh.make(tmp_path / "ssh", well=active, dead=active, double=stopped, fresh=active)
    boards = fake_ssh.inventory(tmp_path / "boards.yml", "well", "dead", "double", "fresh", "gone")
    monkeypatch.setenv("PATH", path_with(ssh))
    with enrolled_broker(tmp_path / "lab", "well", "dead", "double", "gone") as broker, ExitStack() as links:

        def party(name: str, topic: str, birth: Message, will: Message) -> Link:
            made = Link(broker.link(name), name, will=(topic, encode(will)), on_message=lambda _t, _p: None)
            links.callback(made.stop)
            made.start()
            assert made.publish(topic, encode(birth), retain=True)
            until(lambda: not made.sending)
            return made

        def device(name: str, run: str) -> Link:
            said = NodeState(node=name, epoch=2, status="online", meter="ina226")
            return party(name, topics.node_state(run, name), said, msgspec.structs.replace(said, status="offline"))

        said = ServerState(run="shelf", status="open", epoch=1, round=4, rounds=12)
        server = party("server", topics.server_state("shelf"), said, msgspec.structs.replace(said, status="offline"))
        for name in ("well", "double", "gone"):
            device(name, "shelf")
        device("dead", "shelf").sever()
        until(lambda: re.search("Client dead (closed|disconnected)", broker.log()) is not None)
        found, notes = status_of(boards, broker.folder)
        assert {name: one["broker"] for name, one in found.items()} == {
            "well": "online",
            "dead": "offline",
            "double": "online",
            "fresh": "never seen",
            "gone": "online",
        }
        assert found["well"]["differ"] == ""
        assert "note: well" not in notes
        assert "note: dead: by ssh its device is online, by the broker offline: it still prepares" in notes
        assert "note: double: by ssh its device is finished or stopped, by the broker online: its last will" in notes
        assert "note: fresh: by ssh its device is online, by the broker never seen" in notes
        assert "note: gone: ssh does not reach the board, and the broker has its device online" in notes
        assert "error: gone: not reached at pi@gone" in notes
        assert (found["gone"]["round"], found["gone"]["meter"]) == ("4/12 (server)", "ina226")
        assert found["gone"]["power"] == "battery unavailable(not reached), meter ina226"
        assert (found["well"]["round"], found["well"]["error"], found["well"]["batteries"]) == ("3/12", None, [])
        assert abs(found["well"]["clock_s"]) <= found["well"]["clock_error_s"]
        assert server.connected
        assert broker.log().count(" as server ") == 1, "asking for the status ended the server's connection"


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end_s, "nothing came of it"
        time.sleep(0.02)


def test_a_folder_of_before_there_were_operators_says_how_to_get_one(lab: Path) -> None:
    (lab / "operator").rename(lab / "away")
    said = presence.heard(lab).unavailable
    assert said.startswith("broker broker.lan:8883 not asked")
    assert f"spikeleak enroll init --renew --out {lab}" in said


def test_every_playbook_is_one_for_ansible() -> None:
    books = sorted(playbook.FOLDER.glob("*.yml"))
    played = [str(path) for path in books if path.name not in {"preflight.yml", "inventory.example.yml"}]
    assert len(played) == 6
    line = [
        playbook.program("ansible-playbook"),
        "--syntax-check",
        "-i",
        str(playbook.FOLDER / "inventory.example.yml"),
    ]
    done = subprocess.run([*line, *played], capture_output=True, text=True, check=False, env=playbook.environment())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("push", "odd-one", "--enrolment", "{lab}", "--run", "trial"), "device odd-one: key 'threads' = 0"),
        (("push", "gone", "--enrolment", "{lab}", "--run", "a b"), "device gone: key 'run' = 'a b'"),
        (("push", "--enrolment", "{none}", "--run", "trial"), "no enrolment folder"),
        (("push", "no-such", "--enrolment", "{lab}", "--run", "trial"), "board 'no-such': not in"),
        (
            ("update", "strange", "--enrolment", "{lab}", "--run", "trial"),
            "board strange: {lab}/devices/strange holds no",
        ),
        (("status", "-i", "{none}"), "no such file"),
    ],
)
def test_bad_input_names_the_board_and_what_to_do(
    tmp_path: Path, lab: Path, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = fake_ssh.inventory(tmp_path / "boards.yml", "strange", "gone")
    boards.write_text(boards.read_text() + "    odd-one: {spikeleak_device: {threads: 0}}\n")
    monkeypatch.setenv("PATH", path_with(fake_ssh.make(tmp_path / "ssh")))
    names = {"lab": lab, "none": tmp_path / "none"}
    given = [word.format(**names) for word in words]
    done = CliRunner().invoke(deploy_app, [*given, *(() if "-i" in given else ("-i", str(boards)))])
    assert isinstance(done.exception, ConfigurationError), done
    assert says.format(**names) in str(done.exception)
    assert "\n" not in str(done.exception)

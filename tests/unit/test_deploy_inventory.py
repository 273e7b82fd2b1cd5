"""Inventories, first-boot files, and what boards say of themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from contract.errors import ConfigurationError
from contract.messages import NodeState
from deploy.boards import inventory, overview, playbook
from deploy.boards.cloud_init import host_name, user_data
from deploy.boards.payload import device_tables
from deploy.boards.playbook import Event
from deploy.boards.presence import Heard
from deploy.boards.status import Status, read, with_broker


def test_user_data_is_cloud_init_s(tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA+/= me@here"
    files = user_data("pi_2.Lab", ssh_keys=[key], ntp_servers=["10.0.0.1"])
    text = files["user-data"].decode()
    assert text.startswith("#cloud-config\n")
    told = yaml.safe_load(text)
    assert told["hostname"] == "pi-2-lab" == host_name("pi_2.Lab")
    assert told["ntp"] == {"enabled": True, "ntp_client": "systemd-timesyncd", "servers": ["10.0.0.1"]}
    assert told["users"][0]["ssh_authorized_keys"] == [key]
    assert told["users"][0]["lock_passwd"] is True
    assert (told["ssh_pwauth"], told["package_update"]) == (False, False)
    script = tmp_path / "script"
    script.write_text(told["write_files"][0]["content"])
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert told["runcmd"] == [["sh", told["write_files"][0]["path"]]]
    assert "PRIVATE KEY" not in text
    assert yaml.safe_load(files["meta-data"]) == {"instance-id": "spikeleak-pi_2.Lab", "local-hostname": "pi-2-lab"}
    with pytest.raises(ConfigurationError, match=r"--ssh-key: .* is no public key"):
        user_data("pi", ssh_keys=["-----BEGIN OPENSSH PRIVATE KEY-----"])
    program = shutil.which("cloud-init")
    if program is not None:  # its own schema, where the machine has it
        (tmp_path / "user-data").write_text(text)
        line = [program, "schema", "-c", str(tmp_path / "user-data")]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert "Valid cloud-config" in done.stdout, done


def test_the_inventory_that_ships_is_read() -> None:
    boards = inventory.read(playbook.FOLDER / "inventory.example.yml")
    assert [(it.name, it.address) for it in boards] == [
        ("pi-1", "spikeleak-admin@192.168.1.21"),
        ("pi-2", "spikeleak-admin@192.168.1.22"),
        ("jetson-1", "nvidia@192.168.1.31"),
    ]
    assert boards[0].settings == {"board": "pi4", "meter": "none", "threads": 4}
    assert boards[0].datasets == ("mnist5k",)
    for board in boards:
        device_tables(board.name, host="h", port=1, run="r", shard=0, shards=3, own=board.settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("all: {hosts: {}}", "holds no boards"),
        ("all: {hosts: {pi-1: {spikeleak_machine: armv7l}}}", "board pi-1: Invalid enum value 'armv7l'"),
        ("all: {hosts: {pi-1: {spikeleak_data: digits}}}", "board pi-1: Expected `array`, got `str`"),
        ("all: {hosts: {'pi 1': {}}}", "board 'pi 1': a board has its device's name"),
    ],
)
def test_bad_inventories(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "boards.yml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"boards\.yml") as caught:
        inventory.read(tmp_path / "boards.yml")
    assert says in str(caught.value)


def test_settings_of_a_board_name_it_when_they_are_wrong() -> None:
    with pytest.raises(ConfigurationError, match="device pi-1: unknown key 'thread': did you mean 'threads'"):
        device_tables("pi-1", host="h", port=1, run="r", shard=0, shards=1, own={"thread": 4})
    tables = device_tables("pi-1", host="h", port=1, run="r", shard=0, shards=1, own={"link": {"keepalive_s": 60}})
    assert (tables["link"]["keepalive_s"], tables["link"]["host"]) == (60, "h")


def test_a_clock_is_told_with_its_uncertainty() -> None:
    told = {"now": "1000.0", "before_s": 990.0, "after_s": 1000.0, "release": "r", "synchronised": "no"}
    assert read("pi", told).clock == "within 5.0 s, not synchronised"
    assert read("pi", {**told, "now": "1600.5"}).clock == "+605.5 ± 5.0 s, not synchronised"
    assert read("pi", {"release": "r"}).clock == "unknown"
    assert read("pi", {"release": "r"}).starts is None


def state(status: str, run: str = "a", node: str = "pi") -> dict[tuple[str, str], NodeState]:
    return {(run, node): NodeState(node=node, epoch=1, status=status, meter="pmic")}


def test_a_device_of_several_runs_is_looked_for_in_its_own() -> None:
    both = Heard(nodes=state("offline") | state("online", "b") | state("online", "c", "other"))
    assert both.of("pi")[0] == "b"
    assert both.of("pi", "a")[1].status == "offline"
    assert both.of("pi", "d") == ("d", None)
    past = Heard(nodes=state("offline") | state("offline", "b"))
    run, seen = past.of("pi")
    assert (run, seen.status) == ("", "offline"), "which of them was the last, nobody knows"
    assert Heard(nodes=state("offline", "b")).of("pi")[0] == "b"


@pytest.mark.parametrize(
    ("unit", "told", "differs"),
    [
        ("online", "online", ""),
        ("online, resting", "offline", "prepares its task"),
        ("starting", "offline", ""),
        ("offline (broker lost)", "offline", ""),
        ("failed (watchdog)", "online", "last will"),
        ("not installed", "online", "another process"),
        ("unreachable", "online", "it works"),
        ("unreachable", "offline", ""),
    ],
)
def test_what_ssh_and_the_broker_may_say(unit: str, told: str, differs: str) -> None:
    seen = with_broker(Status(board="pi", unit=unit), Heard(nodes=state(told)))
    assert (seen.broker, seen.meter, seen.run) == (told, "pmic", "a")
    assert differs in seen.differ
    assert bool(seen.differ) is bool(differs)
    silent = with_broker(Status(board="pi", unit=unit), Heard(unavailable="broker h:1 unreachable: refused"))
    assert (silent.broker, silent.differ) == ("unknown: broker h:1 unreachable", "")
    assert with_broker(silent, overview.NOT_ASKED).broker == "unknown: not asked"


def test_nothing_stands_for_what_is_not_known() -> None:
    bare = Status(board="pi", unit="online")
    assert bare.power == "unavailable(no battery, meter unknown)"
    assert msgspec.structs.replace(bare, meter="none").power == "unavailable(no battery, no meter)"
    assert msgspec.structs.replace(bare, meter="pmic", undervolted=True).power == "meter pmic, undervoltage"
    empty = read("pi", {"batteries": "BAT0:0 BAT1:", "release": "r", "journal": "1", "error": ""})
    assert [it.charge_percent for it in empty.batteries] == [0, None]
    assert empty.power == "BAT0 0 %, BAT1 unavailable(no capacity)"
    assert (empty.error, read("pi", {}).error) == ("", None)
    told = msgspec.json.decode(overview.line(bare))
    assert (told["error"], told["clock_s"], told["starts"], told["undervolted"]) == (None, None, None, None)


def test_what_the_callback_writes_is_an_event() -> None:
    line = {"event": "ok", "board": "pi", "task": "t", "text": "", "output": "", "told": {}, "ignored": False}
    assert msgspec.json.decode(json.dumps(line), type=Event).board == "pi"


def test_without_ansible_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(
        ConfigurationError, match=r"ansible-playbook is not installed: pip install 'spikeleak\[deploy\]'"
    ):
        playbook.program("ansible-playbook")

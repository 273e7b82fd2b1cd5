"""`spikeleak deploy` as Ansible runs it, against boards behind an ssh of this test; `make boards` has real ones."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.errors import ConfigurationError
from deploy import enroll
from deploy.boards import playbook
from deploy.deploy_command import deploy_app
from deploy.enrolment import Enrolment
from tests import fake_ssh
from tests.conftest import spikeleak
from tests.enrolled_broker import ACCOUNT
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


def test_status_of_boards_that_answer_and_one_that_does_not(tmp_path: Path) -> None:
    show = "printf 'ActiveState={}\\nSubState=x\\nResult={}\\nNRestarts={}\\nStatusText={}\\n'"
    words = "run=a broker=connected round=3/12 server=open published=3 pending=0 meter=ina226"
    link = "echo /opt/spikeleak/releases/0.1.0-abc"
    ssh = fake_ssh.make(
        tmp_path / "ssh",
        well={"systemctl": show.format("active", "success", 0, words), "readlink": link, "timedatectl": "echo yes"},
        lost={"systemctl": show.format("active", "success", 2, words.replace("connected", "lost")), "readlink": link},
        fallen={
            "systemctl": show.format("failed", "exit-code", 0, ""),
            "readlink": link,
            "journalctl": "echo 'spikeleak-client: broker b:8883 not reached'",
            "vcgencmd": "echo throttled=0x50005",
            "date": "/bin/date -d '+10 minutes' \"$@\"",
        },
        bare={"systemctl": show.format("inactive", "success", 0, ""), "readlink": "exit 1", "basename": "echo"},
    )
    boards = fake_ssh.inventory(tmp_path / "boards.yml", "well", "lost", "fallen", "bare", "gone")
    done = spikeleak("deploy", "status", "-i", str(boards), PATH=path_with(ssh))
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line.strip()}
    assert done.returncode == 1, done.stdout + done.stderr
    for board, seen in {
        "well": ("online", "3/12", "ina226", "0.1.0-abc", "within"),
        "lost": ("offline (broker lost)", "3/12", " 2 "),
        "fallen": ("failed (exit-code)", "undervoltage", "spikeleak-client: broker b:8883 not reached"),
        "bare": ("not installed",),
        "gone": ("unreachable", "unknown"),
    }.items():
        assert all(text in rows[board] for text in seen), done.stdout
    assert "error: gone: not reached at pi@gone" in done.stderr
    assert re.search(r"error: fallen: clock: the board is (599|60\d)\.\d s off", done.stderr), done.stderr


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

"""What a board is given, and how it installs it: without a network, a board or systemd."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from contract.configuration import decode_toml
from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy import enroll
from deploy.boards import wheelhouse
from deploy.boards.installation import Installation
from deploy.boards.payload import archives
from deploy.enrolment import Enrolment
from edge_client.settings import ClientSettings
from tests.conftest import ROOT
from tests.enrolled_broker import ACCOUNT
from tests.wheels import Index, small_index, wheel

BOARDS = ROOT / "deploy" / "boards"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return small_index(tmp_path / "index")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    out = tmp_path / "lab"
    enroll.create(out, Enrolment(host="broker.lan", user=ACCOUNT, broker_folder=str(out / "broker")), days=1)
    return out


@pytest.fixture
def bundles(lab: Path, index: Index) -> list[Path]:
    """Two boards' bundles."""
    installation = Installation(
        run="trial", own_wheel=index.own, pip_args=f"--no-index --find-links {index.folder}", cloud_init=True
    )
    return enroll.add_devices(lab, ["pi-1", "pi_2"], days=1, renewed=False, installation=installation)


def sh(script: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(["sh", str(script), *words], capture_output=True, text=True, check=False, env=environment)


def test_a_bundle_holds_all_that_a_board_installs(lab: Path, bundles: list[Path]) -> None:
    first, second = bundles
    assert {path.name for path in first.iterdir()} == {
        *("ca.pem", "device.pem", "device.key", "device.toml", "install.sh", "release.sh", "spikeleak-client.service"),
        *("README.txt", "requirements.txt", "release", "SHA256SUMS", "wheels", "user-data", "meta-data"),
    }
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=first, capture_output=True, check=False
    )
    assert done.returncode == 0, done
    wheels = {path.name for path in (first / "wheels").iterdir()}
    assert wheels == {
        "spikeleak-0.1.0-py3-none-any.whl",
        "sums-2.0-cp311-cp311-manylinux_2_28_aarch64.whl",
        "pip-99.0-py3-none-any.whl",
    }
    wanted = [line.split()[0] for line in (first / "requirements.txt").read_text().splitlines()]
    assert wanted == ["spikeleak==0.1.0", "sums==2.0"]
    assert (first / "wheels" / "sums-2.0-cp311-cp311-manylinux_2_28_aarch64.whl").stat().st_nlink == 3  # held once
    shards = [decode_toml(folder / "device.toml", ClientSettings) for folder in bundles]
    assert [(it.node, it.shard, it.shards, it.run) for it in shards] == [
        ("pi-1", 0, 2, "trial"),
        ("pi_2", 1, 2, "trial"),
    ]
    tls = shards[0].link.tls
    assert tls is not None
    unit = (first / "spikeleak-client.service").read_text()
    assert str(tls.key) == "/run/credentials/spikeleak-client.service/device.key"
    assert "LoadCredential=device.key:/etc/spikeleak/device.key" in unit
    assert f"StateDirectory={shards[0].directory.parent.name}" in unit
    assert (first / "device.key").stat().st_mode & 0o777 == 0o600
    assert second.name == "pi_2"


def test_the_same_source_gives_the_same_release_whatever_the_certificate(lab: Path, bundles: list[Path]) -> None:
    def release() -> dict[str, str]:
        return dict(line.split("=", 1) for line in (bundles[0] / "release").read_text().splitlines())

    before = release()
    place = bundles[0].parents[1]
    again = Installation(run="trial", own_wheel=next((lab.parent / "index").glob("spikeleak*")), cloud_init=True)
    enroll.add_devices(
        place, ["pi-1", "pi_2"], days=2, renewed=True, installation=again
    )  # without an index: kept wheels
    assert (release()["release"], release()["wheels"]) == (before["release"], before["wheels"])
    other = msgspec.structs.replace(again, run="other")
    enroll.add_devices(place, ["pi-1", "pi_2"], days=2, renewed=True, installation=other)
    assert release()["release"] != before["release"]
    assert release()["wheels"] == before["wheels"]


def test_a_wheel_that_does_not_exist_for_the_board_is_the_index_s_fault(tmp_path: Path) -> None:
    index = small_index(tmp_path / "index", machines=("x86_64",))
    words = f"--no-index --find-links {index.folder}"
    house = wheelhouse.build(tmp_path / "houses", "x86_64", "3.11", own=index.own, pip_args=words)
    assert len(house.sha256) == 3
    with pytest.raises(EnvironmentFaultError, match=r"pip download: ERROR: .*sums.*PIP_ARGS"):
        wheelhouse.build(tmp_path / "houses", "aarch64", "3.11", own=index.own, pip_args=words)
    with pytest.raises(EnvironmentFaultError, match="pip download"):
        wheelhouse.build(tmp_path / "houses", "x86_64", "3.13", own=index.own, pip_args=words)
    assert sorted(path.name for path in (tmp_path / "houses").iterdir()) == ["x86_64-3.11", "x86_64-3.11.requires"]


def test_newer_wheels_come_when_they_are_asked_for_or_required(tmp_path: Path, index: Index) -> None:
    def built(own: Path, *, refresh: bool = False) -> list[str]:
        words = f"--no-index --find-links {index.folder}"
        made = wheelhouse.build(tmp_path / "houses", "aarch64", "3.11", own=own, pip_args=words, refresh=refresh)
        return sorted("-".join(name.split("-")[:2]) for name in made.sha256)

    assert built(index.own) == ["pip-99.0", "spikeleak-0.1.0", "sums-2.0"]
    wheel(index.folder, "sums", "2.1", "cp311-cp311-manylinux_2_28_aarch64")
    new = wheel(index.folder, "spikeleak", "0.1.1", "py3-none-any", "sums>=1")
    assert built(new) == ["pip-99.0", "spikeleak-0.1.1", "sums-2.0"]
    assert built(new, refresh=True) == ["pip-99.0", "spikeleak-0.1.1", "sums-2.1"]
    wheel(index.folder, "sums", "3.0", "cp311-cp311-manylinux_2_28_aarch64")
    assert built(wheel(index.folder, "spikeleak", "0.1.2", "py3-none-any", "sums>=3"))[-1] == "sums-3.0"


@pytest.mark.parametrize(
    "name", ["other-1.0-py3-none-any.whl", "spikeleak-0.1.0.tar.gz", "spikeleak-0.1.0-py3-none-any.whl"]
)
def test_what_is_no_wheel_of_this_project(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no zip")
    with pytest.raises(ConfigurationError, match=r"--wheel .*: not a wheel of this project"):
        wheelhouse.build(tmp_path / "houses", "aarch64", "3.11", own=tmp_path / name)


def test_a_board_refuses_what_is_not_for_it(bundles: list[Path], tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()

    def program(name: str, text: str) -> None:
        (fake / name).write_text(f"#!/bin/sh\n{text}\n")
        (fake / name).chmod(0o755)

    def refused() -> str:
        done = sh(bundles[0] / "install.sh", "--root", str(tmp_path / "root"), path=str(fake))
        assert done.returncode == 1, done
        assert not (tmp_path / "root/opt/spikeleak/current").exists()
        return done.stderr

    program("uname", "echo armv7l")
    assert "pi-1: architecture: this board is armv7l, the wheels are for aarch64" in refused()
    program("uname", "echo aarch64")
    program("python3.11", "echo linux-armv8l")
    assert "pi-1: architecture: python3.11 is linux-armv8l, the wheels are for linux-aarch64" in refused()
    program("python3.11", "echo linux-aarch64")
    program("date", "if [ $# = 1 ]; then echo 17; else echo 1970-01-01; fi")
    assert "pi-1: clock: it says 1970-01-01, before this bundle was made" in refused()
    (fake / "date").unlink()
    program("df", "echo head; echo x 1 1 17 1 /")
    assert "pi-1: disk:" in refused()
    (bundles[0] / "device.toml").write_text("")
    assert "pi-1: bundle is damaged (above): copy it again" in refused()
    done = sh(bundles[0] / "install.sh", "--what")
    assert (done.returncode, "sh install.sh --stage" in done.stderr) == (1, True)


class Releases:
    """Releases on a board below a folder, without systemd."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root, self.base = root, root / "opt/spikeleak"
        for at, name in enumerate(names):
            place = self.base / "releases" / name
            place.mkdir(parents=True)
            (place / "release").write_text(f"node=pi-1\nrelease={name}\n")
            (place / "spikeleak-client.service").write_text(name)
            (self.base / "venvs" / name).mkdir(parents=True)
            (place / "venv").symlink_to(f"../../venvs/{name}")
            os.utime(place, (at, at))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return sh(BOARDS / "release.sh", "--root", str(self.root), *words)

    def link(self, name: str) -> str:
        return str((self.base / name).readlink()) if (self.base / name).is_symlink() else ""


def test_releases_are_switched_and_taken_back(tmp_path: Path) -> None:
    board = Releases(tmp_path, "a", "b", "c", "d", "e")
    assert board.run("rollback").returncode == 1
    for name in ("a", "e"):
        assert board.run("activate", name).returncode == 0
    assert (board.link("current"), board.link("previous")) == ("releases/e", "releases/a")
    assert (tmp_path / "etc/systemd/system/spikeleak-client.service").read_text() == "e"
    assert sorted(path.name for path in (board.base / "releases").iterdir()) == ["a", "c", "d", "e"]  # a runs next
    assert sorted(path.name for path in (board.base / "venvs").iterdir()) == ["a", "c", "d", "e"]
    assert board.run("rollback").returncode == 0
    assert (board.link("current"), board.link("previous")) == ("releases/a", "releases/e")
    assert board.run("list").stdout.splitlines() == ["  e", "  d", "  c", "* a"]
    done = board.run("activate", "z")
    assert (done.returncode, "pi-1: no release z here; there are: a c d e" in done.stderr.replace("\n", " ")) == (
        1,
        True,
    )
    assert board.run("activate").returncode == board.run("what").returncode == 1


def test_boards_share_what_is_large(tmp_path: Path) -> None:
    files = {"wheels/a.whl": b"wheel", "data/x.npy": b"samples", "device.key": b"secret"}
    made = [archives(node, {**files, "device.toml": node.encode()}, tmp_path) for node in ("pi-1", "pi-2")]
    assert [it.archive for it in made[0]][:2] == [it.archive for it in made[1]][:2]
    assert [it.archive for it in made[0]][2:] == ["pi-1.tar"]
    assert {path.name for path in tmp_path.iterdir()} == {it.archive for found in made for it in found}
    listed = subprocess.run(
        ["tar", "-tvf", str(tmp_path / "pi-1.tar")], capture_output=True, text=True, check=True
    ).stdout
    assert "-rw-------" in next(line for line in listed.splitlines() if "device.key" in line)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--run", "a"), "--run: only with --wheelhouse"),
        (("--cloud-init",), "--cloud-init: only with --wheelhouse"),
        (("--wheelhouse", "armv7l", "--run", "a"), "--wheelhouse 'armv7l': known are aarch64, x86_64"),
        (("--wheelhouse", "aarch64", "--python", "3.9", "--run", "a"), "--python '3.9': known are 3.11, 3.13"),
        (("--wheelhouse", "aarch64"), "--wheelhouse: name the run"),
        (("--wheelhouse", "aarch64", "--run", "a", "--ssh-key", "/nowhere"), "--ssh-key /nowhere"),
    ],
)
def test_options_that_do_not_fit(lab: Path, words: tuple[str, ...], says: str) -> None:
    from typer.testing import CliRunner

    from deploy.enroll_command import enroll_app

    done = CliRunner().invoke(enroll_app, ["device", "pi-9", "--out", str(lab), *words])
    assert isinstance(done.exception, ConfigurationError), done
    assert says in str(done.exception)
    assert not (lab / "devices" / "pi-9").exists()


def test_check_reads_the_settings_only(tmp_path: Path) -> None:
    from edge_client.app import main

    (tmp_path / "device.toml").write_text('run = "a"\nnode = "b"\ndirectory = "/nowhere"\nshard = 0\nshards = 1\n')
    assert main([str(tmp_path / "device.toml"), "--check"]) == 0
    (tmp_path / "device.toml").write_text('run = "a"\n')
    assert main([str(tmp_path / "device.toml"), "--check"]) == 2

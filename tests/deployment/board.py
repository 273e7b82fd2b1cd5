"""A board that boots: a Debian root with systemd and sshd, in a container, on a loopback address of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.arm64.root import needed

PACKAGES = ("python3", "libstdc++6", "openssh-server", "systemd", "systemd-sysv", "dbus", "sudo")
USER = "lab"
_PORT = 2222
_PATIENCE_S = 120.0


class Board:
    """One board.

    Args:
        root: Its file system, for it alone.
        name: Its name.
        number: Its address is 127.0.1.`number`.
        key: Private key that may log in; its public half lies beside it.
    """

    def __init__(self, root: Path, name: str, number: int, key: Path) -> None:
        self.root, self.name, self.address, self.key, self.port = root, name, f"127.0.1.{number}", key, _PORT
        self._process: subprocess.Popen[bytes] | None = None
        (root / "etc/hostname").write_text(f"{name}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost {name}\n")
        subprocess.run(["useradd", "-R", str(root), "-m", "-s", "/bin/bash", USER], check=True)
        ssh = root / "home" / USER / ".ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
        for path in (ssh, ssh / "authorized_keys"):
            shutil.chown(path, 1000, 1000)
        (root / "etc/sudoers.d" / USER).write_text(f"{USER} ALL=(ALL) NOPASSWD:ALL\n")
        listen = f"ListenAddress {self.address}\nPort {_PORT}\n"
        (root / "etc/ssh/sshd_config.d/test.conf").write_text(listen)

    def start(self) -> None:
        line = [needed("systemd-nspawn", "systemd-container"), "--quiet", "--boot", "--register=no", "--keep-unit"]
        line += ["--console=read-only", f"--machine={self.name}", "--directory", str(self.root)]
        with (self.root.parent / f"{self.name}.log").open("ab") as log_file:
            self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file)
        end_s = time.monotonic() + _PATIENCE_S
        while self.shell("systemctl is-system-running --wait", check=False) not in {"running", "degraded"}:
            assert time.monotonic() < end_s, f"{self.name} did not boot: {self.root.parent}/{self.name}.log"
            time.sleep(0.5)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def shell(self, text: str, *, check: bool = True) -> str:
        """What a root shell on the board prints."""
        options = [f"-oUserKnownHostsFile={self.key.parent / 'known_hosts'}", "-oStrictHostKeyChecking=accept-new"]
        options += ["-oBatchMode=yes", "-oLogLevel=ERROR", "-oConnectTimeout=5", "-p", str(_PORT), "-i", str(self.key)]
        line = ["ssh", *options, f"{USER}@{self.address}", f"sudo sh -c {_quoted(text)}"]
        done = subprocess.run(line, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{self.name}: {text}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """A property of the device's unit."""
        return self.shell(f"systemctl show spikeleak-client.service --property={name} --value")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@contextlib.contextmanager
def booted(made: Path, folder: Path, key: Path, *names: str) -> Iterator[list[Board]]:
    """Boards, each on a copy of a Debian root, stopped at the end."""
    boards = []
    try:
        for number, name in enumerate(names, 1):
            root = folder / name
            subprocess.run(["cp", "-a", str(made), str(root)], check=True)
            boards.append(Board(root, name, number, key))
            boards[-1].start()
        yield boards
    finally:
        for board in boards:
            board.stop()

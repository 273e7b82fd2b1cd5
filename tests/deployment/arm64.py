"""`make arm64`: a Debian arm64 board installs its bundle without a network and takes part in a run over TLS.

The root is Debian's (debootstrap), its processor qemu's; the bundle is what `spikeleak enroll device --wheelhouse`
made, the broker a mosquitto on this machine with the enrolment's settings. systemd does not run in it: what the unit
does for the device (its account, the key) is done here by hand. `make boards` has that part, on this machine's own
processor.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

from server.summary import summarise
from tests.arm64.root import CPUS, describe
from tests.conftest import spikeleak
from tests.deployment import debian, namespace
from tests.deployment.outside import Server, main, say, server
from tests.enrolled_broker import EnrolledBroker, enrolled_broker

PROJECT = Path(__file__).resolve().parents[2]
NODE, RUN = "pi-1", "arm64"
ACCOUNT = 4242
"""Stands for the account that `DynamicUser=` makes."""

SERVER = """
clients = 1
drain_s = 60.0
[task]
dataset = "digits"
[task.encoding]
kind = "rate"
steps = 10
[task.model]
hidden = [64]
[[schedule]]
kind = "train"
rounds = 3
local_steps = 5
batch_size = 16
learning_rate = 0.2
deadline_s = 300.0
"""
_MOUNTS = """
set -e
mount --bind {root} {root}
mount -t proc proc {root}/proc
mount --bind {cpuinfo} {root}/proc/cpuinfo
mount -t tmpfs tmpfs {root}/tmp
export QEMU_CPU={cpu} SPIKELEAK_DATA=/opt/spikeleak/data OMP_NUM_THREADS=1 HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
"""
_NO_NETWORK = """
import os, socket
print("interfaces:", *sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else
      [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]])
for address in (("192.0.2.1", 443), ("127.0.0.1", {port})):
    try:
        socket.create_connection(address, 3)
    except OSError as error:
        print("network:", address[0], type(error).__name__, error.strerror)
    else:
        raise SystemExit(f"{{address}} was reached: there is a network")
"""


class Guest:
    """The emulated board."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.cpu = root, CPUS[1]
        describe(root, self.cpu)
        self._cpuinfo = folder / "cpuinfo"
        shutil.move(root / "proc/cpuinfo", self._cpuinfo)
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")

    def run(self, text: str, *, network: bool) -> subprocess.CompletedProcess[str]:
        """A shell's commands on the board."""
        mounts = _MOUNTS.format(root=self.root, cpuinfo=self._cpuinfo, cpu=self.cpu.name)
        line = namespace.command(
            "sh", "-c", f"{mounts}\nexec chroot {self.root} sh -c '{text}'", network=network, aarch64=True
        )
        return subprocess.run(line, check=False, capture_output=True, text=True, cwd=PROJECT)

    def must(self, text: str, *, network: bool) -> str:
        done = self.run(text, network=network)
        assert done.returncode == 0, f"{text}: status {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done.stdout


def install(guest: Guest, broker: EnrolledBroker) -> None:
    """The bundle, from its own wheels; and what it refuses."""
    shutil.copytree(broker.folder / "devices" / NODE, guest.root / "root/bundle")
    (guest.root / "root/no_network.py").write_text(_NO_NETWORK.format(port=broker.port))
    say("board", guest.must("uname -m; cat /etc/debian_version; python3 --version", network=False).split())
    say("pip on the board", guest.run("python3 -m pip --version", network=False).stderr.strip())
    refused = guest.run(
        "cp -r /root/bundle /tmp/x && cd /tmp/x && sed -i s/machine=aarch64/machine=x86_64/ release && "
        'sed -i "s/^.*  release\\$/$(sha256sum release)/" SHA256SUMS && sh install.sh',
        network=False,
    )
    assert refused.returncode == 1, refused
    assert f"{NODE}: architecture: this board is aarch64" in refused.stderr, refused
    say("wrong wheels", refused.stderr.strip())
    began_s = time.monotonic()
    told = guest.must("python3 /root/no_network.py && sh /root/bundle/install.sh", network=False)
    for line in told.strip().splitlines():
        say("install, no network", line)
    say("installed in", f"{time.monotonic() - began_s:.0f} s (emulated)")
    say("size", guest.must("du -sm /opt/spikeleak/venvs", network=False).split()[0] + " MB")


def take_part(guest: Guest, running: Server) -> None:
    """A whole run against the server outside."""
    guest.must(
        f"install -d -o {ACCOUNT} -m 700 /var/lib/spikeleak /run/credentials/spikeleak-client.service && "
        f"install -o {ACCOUNT} -m 400 /etc/spikeleak/device.key /run/credentials/spikeleak-client.service/",
        network=False,
    )
    began_s = time.monotonic()
    line = f"setpriv --reuid={ACCOUNT} --regid={ACCOUNT} --clear-groups"
    current = "/opt/spikeleak/current"
    done = guest.run(f"{line} {current}/venv/bin/spikeleak-client {current}/device.toml", network=True)
    assert done.returncode == 0, done.stderr[-3000:]
    say("run finished in", f"{time.monotonic() - began_s:.0f} s (emulated), device's status {done.returncode}")
    assert running.process.wait(120) == 0, running.log()


def judge(running: Server, broker: EnrolledBroker) -> None:
    """What the ledger and the broker say of it."""
    summary = summarise(running.folder)
    updates = summary["updates"]
    say("updates", json.dumps(updates))
    assert (updates["admitted"], updates["lost"], updates["duplicated"]) == (3, 0, 0), updates
    assert running.admitted(NODE) == [1, 2, 3]
    say("accuracy", f"{summary['accuracy']:.3f}")
    say("bytes up", summary["bytes_up"])
    line = re.findall(rf"New client connected .* as {NODE} .*", broker.log())[-1]
    say("broker's log", line)


def _whole(made: Path, folder: Path) -> None:
    root = folder / "root"
    subprocess.run(["cp", "-a", str(made), str(root)], check=True)
    with enrolled_broker(folder / "lab") as broker:
        words = ["--wheelhouse", "aarch64", "--run", RUN, "--data", "digits"]
        done = spikeleak("enroll", "device", NODE, "--out", str(broker.folder), *words, timeout_s=600)
        assert done.returncode == 0, done.stderr
        broker.reload()
        wheels = sorted(path.name for path in (broker.folder / "devices" / NODE / "wheels").iterdir())
        say("wheels", " ".join("-".join(name.split("-")[:2]) for name in wheels))
        guest = Guest(root, folder)
        install(guest, broker)
        with server(folder, broker, RUN, SERVER) as running:
            take_part(guest, running)
            judge(running, broker)


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin"
    raise SystemExit(main("arm64", __doc__, partial(debian.root, architecture="arm64"), _whole))

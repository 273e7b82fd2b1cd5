"""Runs a command in namespaces of its own, where aarch64 programs run too: nothing of this machine is changed.

python -m tests.deployment.namespace [--no-network] [--aarch64] COMMAND…

A user namespace has its own table of binary formats (Linux 6.7 on), so that qemu is registered in it alone. All user
ids are mapped as they are, which takes root: a Debian root has files of many owners.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
from pathlib import Path

_USER, _MOUNT, _NETWORK, _PID = 0x10000000, 0x00020000, 0x40000000, 0x20000000
_BINARY_FORMATS = Path("/proc/sys/fs/binfmt_misc")
_HEADER = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
"""ELF, 64 bit, little-endian, executable or shared, machine 183: aarch64."""


def command(*words: str, network: bool, aarch64: bool = False) -> list[str]:
    """The command line for `words` in namespaces."""
    options = [*([] if network else ["--no-network"]), *(["--aarch64"] if aarch64 else [])]
    return [sys.executable, "-m", "tests.deployment.namespace", *options, *words]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-network", action="store_true")
    parser.add_argument("--aarch64", action="store_true")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    flags = _USER | _MOUNT | _PID | (_NETWORK if asked.no_network else 0)
    ready, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mapped[1])
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(flags):
            raise OSError(ctypes.get_errno(), "unshare: namespaces are not permitted here")
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        inner = os.fork()  # the first process of the new process namespace
        if inner == 0:
            _run(asked.words, aarch64=asked.aarch64)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
    os.close(ready[1])
    if os.read(ready[0], 1):
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text("0 0 65536")
        os.write(mapped[1], b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(words: list[str], *, aarch64: bool) -> None:
    mount = ["mount", "-t", "proc", "proc", "/proc"]
    subprocess.run(mount, check=True)
    if aarch64:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt", str(_BINARY_FORMATS)], check=True)
        line = f":aarch64:M::{_HEADER}:{_MASK}:/usr/bin/qemu-aarch64-static:OF"
        (_BINARY_FORMATS / "register").write_text(line)
    os.execvp(words[0], words)


if __name__ == "__main__":
    raise SystemExit(main())

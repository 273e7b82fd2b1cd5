"""Processes held down like a board: a real process, really measured."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import cgroups
from deploy.board import BoardProfile
from deploy.limits import Limits, Used, cpu_seconds

BUSY = "while True: pass"
SHARE = 0.3
LASTS_S = 2.5


def held_down(place: cgroups.Place | None) -> tuple[Used, float]:
    """A busy process under a share: what was recorded, and the share that an observer sees."""
    board = BoardProfile(name="b", title="b", cpu_share=SHARE, memory_mb=200)
    limits = Limits(place)
    limited = limits.limited("busy", board)
    child = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        limited.begin(child.pid)
        with limits:
            limits.start()
            time.sleep(0.5)
            began_s, before_s = time.monotonic(), cpu_seconds(child.pid)
            time.sleep(LASTS_S)
            after_s, ended_s = cpu_seconds(child.pid), time.monotonic()
            used = limits.used()["busy"]
            assert before_s is not None
            assert after_s is not None
            limits.release()
            child.kill()
            child.wait()
    finally:
        child.kill()
        child.wait()
    return used, (after_s - before_s) / (ended_s - began_s)


def test_a_duty_cycle_holds_the_share_that_it_records() -> None:
    used, seen = held_down(None)
    assert (used.cpu, used.memory) == ("duty cycle", "RLIMIT_DATA")
    assert seen <= SHARE * 1.15, "a busy machine may give less, the limit never more"
    assert used.busiest_share <= SHARE * 1.3
    assert used.cpu_s > 0


def test_a_control_group_holds_the_share_where_it_is_allowed() -> None:
    place = cgroups.find()
    if place is None or place.cpu is None:
        pytest.skip("this user may make no control group here; the duty cycle, tested above, is what a run uses")
    used, seen = held_down(place)
    assert used.cpu == f"cgroup v{place.version}"
    assert seen <= SHARE * 1.15
    assert not [p for p in place.cpu.iterdir() if p.name.endswith("-busy") and p.name.startswith("spikeleak-")]


@pytest.mark.parametrize("place", [None, "here"])
def test_a_process_that_wants_more_memory_than_its_board_dies(place: str | None, tmp_path: Path) -> None:
    found = None if place is None else cgroups.find()
    limits = Limits(found)
    limited = limits.limited(f"hungry-{place}", BoardProfile(name="b", title="b", memory_mb=100))
    program = "import sys; sys.stdin.readline(); block = bytearray(b'x') * 300_000_000; print(len(block))"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with limits:
        limited.begin(child.pid)
        out, _ = child.communicate(b"\n", timeout=30)
    assert out == b""
    assert child.returncode != 0
    assert limits.used()[f"hungry-{place}"].cpu == "none"


def test_a_process_that_is_gone_has_no_seconds() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert cpu_seconds(child.pid) is None

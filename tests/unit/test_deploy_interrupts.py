"""Signals are counted, and act where the program looks at them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from deploy.interrupts import Interrupts
from deploy.supervisor import Party, end


def test_the_first_signal_waits_to_be_looked_at_and_the_third_does_not() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (interrupts.count, interrupts.hurry) == (1, False)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.hurry
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def deaf(tmp_path: Path, name: str) -> Party:
    """A process that ignores SIGTERM, once it has said so."""
    ready = tmp_path / f"{name}.ready"
    party = Party(
        name, ["timeit", "-n1", "-r1", "-s", _deaf_text(ready), "time.sleep(60)"], tmp_path / "log", max_restarts=0
    )
    party.start()
    deadline = time.monotonic() + 10
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return party


def _deaf_text(ready: Path) -> str:
    return (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(ready)!r}).touch()"
    )


def test_parties_that_do_not_end_are_killed_after_their_time_together(tmp_path: Path) -> None:
    parties = [deaf(tmp_path, name) for name in ("a", "b")]
    began_s = time.monotonic()
    end(parties, grace_s=0.5)
    assert 0.4 < time.monotonic() - began_s < 5
    assert [party.pid for party in parties] == [None, None]


def test_parties_are_killed_at_once_when_it_hurries(tmp_path: Path) -> None:
    party = deaf(tmp_path, "a")
    began_s = time.monotonic()
    end([party], grace_s=60, hurry=lambda: True)
    assert time.monotonic() - began_s < 5
    assert party.pid is None

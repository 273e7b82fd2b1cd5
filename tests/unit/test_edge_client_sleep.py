"""Duty cycle: when a device sleeps, what its next update says of it, and what a suspended machine does to joules."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import pytest

from contract.messages import ServerState
from contract.task import RoundPlan
from edge_client.account import Account
from edge_client.client import ClientState
from edge_client.energy import PhaseMeter, UpdateWindows, phase_energies
from edge_client.sleep import Sleeper, SleepSettings, has_work, suspended_s
from hardware.energy_model import EnergyModel
from hardware.meters.replay import ReplayMeter

MODEL = EnergyModel.load("horowitz-45nm")
READY = ClientState(node="pi-1", connected=True, task_hash="t")


class World:
    """A device on a board that takes 2 W for ever, with a clock of its own."""

    def __init__(self, folder: Path, settings: SleepSettings | None = None) -> None:
        self.now_s, self.asleep_s, self.waits = 10.0, 0.0, list[float]()
        trace = folder / "trace.csv"
        trace.write_text("# scope: board\ntime_s,power_w\n0,2\n1000,2\n")
        self.meter = ReplayMeter(trace, clock=lambda: self.now_s)
        phases = PhaseMeter((self.meter,), lambda: self.now_s, lambda: self.asleep_s)
        self.account = Account(phases, lambda: self.now_s)
        self.account.rest()
        self.sleeper = Sleeper(settings, self.account, lambda: self.now_s, self.wait)

    def wait(self, seconds: float) -> None:
        self.waits += [seconds] * (seconds > 0)  # 0: whether it is told to stop, and a sign of life
        self.now_s += seconds

    def update(self, *, sleeps: bool = True) -> dict[str, tuple]:
        """Makes an update; its readings by phase."""
        self.account.begin()
        self.now_s += 1
        made = UpdateWindows(windows=self.account.made("u"), operations=None, sleeps=sleeps)
        transmit, _, _ = self.account.settled("u", None)
        found = phase_energies(made, transmit, model=MODEL, meters=("replay",), sent_bytes=0, transmit_s=None)
        return {phase.phase: phase.readings for phase in found}


def test_it_sleeps_after_a_while_without_work_and_the_next_update_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, SleepSettings(seconds=30.0, after_s=2.0))
    assert not world.sleeper.rest(READY)
    world.now_s += 1.5
    assert not world.sleeper.rest(READY)
    world.now_s += 0.5
    assert world.sleeper.rest(READY)
    assert world.waits == [30.0]
    assert not world.sleeper.rest(READY), "it looks for messages before it sleeps again"
    world.now_s += 1.0
    readings = world.update()
    assert readings["sleep"][0].energy_j == pytest.approx(60.0)
    assert readings["sleep"][0].duration_s == 30.0
    assert readings["idle"][0].energy_j == pytest.approx(2 * (2.0 + 1.0))
    assert readings["load"][0].energy_j == pytest.approx(2.0)


def test_a_device_that_stays_awake_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.now_s += 1000
    assert not world.sleeper.rest(READY)
    reading = world.update(sleeps=False)["sleep"][0]
    assert (reading.provenance, reading.duration_s) == ("unavailable", 0.0)
    assert "does not sleep" in reading.reason


def test_work_keeps_it_awake_and_starts_the_count_again(tmp_path: Path) -> None:
    world = World(tmp_path, SleepSettings(seconds=30.0, after_s=2.0))
    world.sleeper.rest(READY)
    world.now_s += 1.9
    assert not world.sleeper.rest(msgspec.structs.replace(READY, unscored=("r",)))
    world.now_s += 1.9
    assert not world.sleeper.rest(READY)
    assert world.waits == []


def server(status: str) -> ServerState:
    return ServerState(run="r", status=status, epoch=1, round=1, plan=RoundPlan(), task_hash="t", selected=("pi-1",))


@pytest.mark.parametrize(
    "changes",
    [
        {"connected": False},
        {"task_hash": ""},
        {"fetching": 3},
        {"sending": True},
        {"server": server("open")},
        {"server": server("finished")},
    ],
    ids="-".join,
)
def test_what_counts_as_work(changes: dict) -> None:
    assert not has_work(READY)
    assert not has_work(msgspec.structs.replace(READY, server=server("waiting")))
    assert has_work(msgspec.structs.replace(READY, **changes))


def test_a_command_is_run_with_the_seconds_and_a_failing_one_lets_it_rest(tmp_path: Path) -> None:
    note = tmp_path / "note"
    program = f"import sys; open({str(note)!r}, 'w').write(sys.argv[1])"
    world = World(tmp_path, SleepSettings(seconds=30, after_s=0, command=(sys.executable, "-c", program, "{seconds}")))
    assert world.sleeper.rest(READY)
    assert (note.read_text(), world.waits) == ("30", [])
    for command in ((sys.executable, "-c", "raise SystemExit(3)"), ("/no/such/program",)):
        world = World(tmp_path, SleepSettings(seconds=30, after_s=0, command=command))
        assert world.sleeper.rest(READY)
        assert world.waits == [30.0]


def test_a_device_that_is_told_to_stop_ends_the_command(tmp_path: Path) -> None:
    world = World(tmp_path, SleepSettings(seconds=600, after_s=0, command=("sleep", "600")))
    waited: list[float] = []
    world.sleeper._wait = lambda seconds: waited.append(seconds) or True
    began_s = time.monotonic()
    assert world.sleeper.rest(READY)
    assert time.monotonic() - began_s < 60
    assert waited == [0.0, 600.0], "it rests where the command did not sleep, and is told to stop there as well"


def test_a_suspended_machine_has_a_length_and_no_joules(tmp_path: Path) -> None:
    """The monotonic clock, and with it every meter's, stood still."""
    world = World(tmp_path)
    with world.account.asleep():
        world.asleep_s += 600.0
    readings = world.update()
    assert readings["sleep"][0].duration_s == pytest.approx(600.0)
    assert "suspended for 600 s" in readings["sleep"][0].reason
    assert readings["load"][0].energy_j == pytest.approx(2.0), "the next window is whole again"


def test_the_two_clocks_of_this_machine() -> None:
    assert abs(suspended_s() - suspended_s()) < 0.01
    assert suspended_s() > -0.01

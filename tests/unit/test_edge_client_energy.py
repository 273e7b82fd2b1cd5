"""Windows per phase, measured beside modelled, booked on the right update."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.messages import Operations
from edge_client.account import Account
from edge_client.energy import PhaseMeter, UpdateWindows, Window, merged, phase_energies, radio_s
from hardware.energy import PHASES, EnergyReading, unavailable
from hardware.energy_model import EnergyModel
from hardware.meter import Meter, open_meter
from hardware.meters.replay import ReplayMeter

OPERATIONS = Operations(macs=1000, acs=2000, membrane_updates=30, backward_macs=4000, memory_bytes=500)
MODEL = EnergyModel.load("horowitz-45nm")


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


def replayed(tmp_path: Path, clock: Clock) -> Meter:
    """2 W for the first 10 s, then 6 W."""
    path = tmp_path / "trace.csv"
    path.write_text("# scope: board\ntime_s,power_w\n0,2\n10,2\n10,6\n100,6\n", encoding="utf-8")
    return ReplayMeter(path, clock=clock)


def account(meter: Meter, clock: Clock) -> Account:
    return Account(PhaseMeter((meter,), clock), clock)


def live_through_an_update(book: Account, clock: Clock, uid: str = "u") -> tuple[Window, ...]:
    book.begin()
    for phase, seconds in {"load": 0.5, "encode": 0.25, "train": 2.0, "compress": 0.25}.items():
        book.enter(phase)
        clock.pass_s(seconds)
    return book.made(uid)


def test_each_phase_gets_the_joules_of_its_window(tmp_path):
    clock = Clock()
    book = account(replayed(tmp_path, clock), clock)
    clock.pass_s(1.0)  # preparing data: nobody's
    book.rest()
    clock.pass_s(8.0)
    windows = live_through_an_update(book, clock)
    book.sent("u", 1000)
    clock.pass_s(1.5)
    (transmit,), seconds, count = book.settled("u", clock() - 1.25)
    assert [(w.phase, w.duration_s) for w in windows] == [
        ("idle", 8.0),
        ("load", 0.5),
        ("encode", 0.25),
        ("train", 2.0),
        ("compress", 0.25),
    ]
    # The trace steps from 2 W to 6 W at 10 s: 0.25 s into the training window.
    assert [w.readings[0].energy_j for w in windows] == pytest.approx([16.0, 1.0, 0.5, 0.5 + 1.75 * 6, 1.5])
    assert transmit.energy_j == pytest.approx(9.0)
    assert (seconds, count) == (1.25, 1000)
    assert {w.readings[0].provenance for w in windows} | {transmit.provenance} <= {"measured", "emulated"}


def test_measured_stands_beside_modelled_and_gaps_have_reasons(tmp_path):
    clock = Clock()
    book = account(replayed(tmp_path, clock), clock)
    book.rest()
    clock.pass_s(1.0)
    windows = live_through_an_update(book, clock)
    book.sent("u", 50_000)
    clock.pass_s(2.0)
    transmit, seconds, count = book.settled("u", clock() - 2.0)
    made = UpdateWindows(windows=windows, operations=OPERATIONS)
    phases = phase_energies(made, transmit, model=MODEL, meters=("replay",), sent_bytes=count, transmit_s=seconds)
    assert tuple(p.phase for p in phases) == PHASES
    assert "does not sleep" in phases[-1].readings[0].reason
    phases = phases[:-1]
    by_phase = {p.phase: p.readings for p in phases}
    assert all(measured.energy_j > 0 for measured, _ in by_phase.values())
    expected = MODEL.compute(
        macs=1000, acs=2000, membrane_updates=30, backward_macs=4000, memory_bytes=500, duration_s=2.0
    )
    assert by_phase["train"][1] == expected
    assert by_phase["transmit"][1] == MODEL.radio(50_000, 2.0)
    for phase in ("idle", "load", "encode", "compress"):
        modelled = by_phase[phase][1]
        assert modelled.provenance == "unavailable"
        assert phase in modelled.reason


def test_without_a_meter_nothing_is_measured_and_windows_keep_their_length():
    clock = Clock()
    book = account(open_meter("none"), clock)
    windows = live_through_an_update(book, clock)
    assert [w.readings[0].energy_j for w in windows] == [None] * 4
    assert [w.readings[0].duration_s for w in windows] == [0.5, 0.25, 2.0, 0.25]
    assert all(w.readings[0].reason for w in windows)
    transmit, seconds, count = book.settled("u", None)
    made = UpdateWindows(windows=windows, operations=OPERATIONS)
    phases = phase_energies(made, transmit, model=MODEL, meters=("none",), sent_bytes=count, transmit_s=seconds)
    readings = [reading for p in phases for reading in p.readings]
    assert "measured" not in {r.provenance for r in readings}
    assert all(r.reason for r in readings if r.provenance == "unavailable")
    assert {p.phase: p.readings[0].reason for p in phases}["idle"] == "this update has no window of phase 'idle'"


def test_a_transmission_that_other_work_overlapped_is_not_measured(tmp_path):
    clock = Clock()
    book = account(replayed(tmp_path, clock), clock)
    live_through_an_update(book, clock, "u")
    book.sent("u", 10)
    clock.pass_s(1.0)
    with book.aside():
        clock.pass_s(1.0)
    clock.pass_s(1.0)
    (reading,), seconds, count = book.settled("u", clock() - 3.0)
    assert reading.provenance == "unavailable"
    assert "other work" in reading.reason
    assert (reading.duration_s, seconds, count) == (3.0, 3.0, 10)


def test_scoring_is_no_updates_idle_time(tmp_path):
    clock = Clock()
    book = account(replayed(tmp_path, clock), clock)
    book.rest()
    clock.pass_s(1.0)
    with book.aside():
        clock.pass_s(5.0)
    clock.pass_s(2.0)
    windows = live_through_an_update(book, clock)
    idle = [w for w in windows if w.phase == "idle"]
    assert [w.duration_s for w in idle] == [1.0, 2.0]
    whole = merged([w.readings[0] for w in idle])
    assert whole.energy_j == pytest.approx(6.0)
    assert whole.duration_s == pytest.approx(3.0)


def test_an_update_that_failed_leaves_no_windows_behind(tmp_path):
    clock = Clock()
    book = account(replayed(tmp_path, clock), clock)
    book.begin()
    clock.pass_s(1.0)
    book.enter("train")
    clock.pass_s(1.0)
    book.gave_up()
    clock.pass_s(1.0)
    windows = live_through_an_update(book, clock)
    assert [w.phase for w in windows] == ["idle", "load", "encode", "train", "compress"]


def test_a_restart_between_leaves_the_transmission_unknown():
    clock = Clock()
    book = account(open_meter("none"), clock)
    reading, seconds, count = book.settled("earlier", 3.0)
    assert (seconds, count) == (None, 0)
    made = UpdateWindows(windows=(), operations=OPERATIONS)
    phases = phase_energies(made, reading, model=MODEL, meters=("none",), sent_bytes=0, transmit_s=None)
    assert all("restart" in r.reason for r in {p.phase: p for p in phases}["transmit"].readings)


def test_encoding_inside_the_training_window_says_so(tmp_path):
    clock = Clock()
    windows = live_through_an_update(account(replayed(tmp_path, clock), clock), clock)
    made = UpdateWindows(windows=windows, operations=OPERATIONS, encoded_ahead=False)
    gone = unavailable("m", "s", "r")
    phases = phase_energies(made, (gone,), model=MODEL, meters=("m",), sent_bytes=1, transmit_s=1.0)
    encode = next(p for p in phases if p.phase == "encode")
    assert "inside the train window" in encode.readings[0].reason


def test_one_missing_window_makes_the_phase_unavailable():
    read = EnergyReading(energy_j=1.0, duration_s=1.0, source="m", scope="s", provenance="measured", samples=2)
    missing = unavailable("m", "s", "too short", duration_s=2.0)
    assert merged([read, missing]) == unavailable("m", "s", "too short", duration_s=3.0)
    assert merged([]) is None
    assert merged([read]) == read


class Broken:
    """A meter that raises whatever it is asked."""

    name, source, scope = "broken", "broken:1", "board"

    def __init__(self, *, start: bool, read: bool) -> None:
        self._start, self._read = start, read
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        if self._start and self.starts == 1:
            raise OSError("bus error")

    def read(self) -> EnergyReading:
        if self._read:
            raise RuntimeError("no answer")
        return EnergyReading(energy_j=1.0, duration_s=1.0, source="m", scope="s", provenance="measured")

    def close(self) -> None:
        return None


def test_a_meter_that_raises_never_stops_anything():
    clock = Clock()
    windows = live_through_an_update(account(Broken(start=False, read=True), clock), clock)
    assert {w.readings[0].reason for w in windows} == {"RuntimeError: no answer"}
    phases = PhaseMeter((Broken(start=True, read=False),), clock)
    assert phases.enter("train").readings[0].reason == "OSError: bus error"
    assert phases.enter("idle").readings[0].energy_j == 1.0


def test_what_was_not_counted_is_not_modelled():
    made = UpdateWindows(windows=(), operations=None)
    transmit = account(open_meter("none"), Clock()).settled("u", None)[0]
    phases = phase_energies(made, transmit, model=MODEL, meters=("none",), sent_bytes=9, transmit_s=1.0)
    train = {p.phase: p.readings[1] for p in phases}["train"]
    assert (train.provenance, train.energy_j) == ("unavailable", None)
    assert "user's own" in train.reason


def test_joules_of_masks_are_booked_on_the_update_and_kept_apart(tmp_path):
    clock = Clock()
    book = account(replayed(tmp_path, clock), clock)
    book.rest()
    clock.pass_s(1.0)
    with book.overhead():  # keys, before the update
        clock.pass_s(1.0)
    clock.pass_s(2.0)
    book.begin()
    book.enter("compress")
    clock.pass_s(0.5)
    with book.overhead():  # masks, within its phase, which counts whole
        clock.pass_s(0.25)
    windows = book.made("u")
    apart = book.overheads()
    assert [(w.phase, w.readings[0].energy_j) for w in apart] == [("compress", 2.0), ("compress", 1.5)]
    compress = merged([w.readings[0] for w in windows if w.phase == "compress"])
    assert compress is not None
    assert compress.energy_j == pytest.approx(2.0 * (1.0 + 0.5 + 0.25))
    idle = merged([w.readings[0] for w in windows if w.phase == "idle"])
    assert idle is not None
    assert idle.energy_j == pytest.approx(6.0)
    assert book.overheads() == ()
    with book.overhead(booked=False) as told:  # shares, after it
        clock.pass_s(1.0)
    assert [w.readings[0].energy_j for w in told] == [2.0]
    assert (book.made("v")[-1].phase, book.overheads()) == ("idle", ())


def test_a_stated_rate_of_the_link_takes_the_place_of_the_time_until_the_answer():
    assert radio_s(None, 1000, 0.7) == 0.7
    assert radio_s(20.0, 1000, 0.7) == pytest.approx(8 * 1000 / 20e6)
    assert radio_s(20.0, 1000, None) is None  # a restart lay between: how much was sent is not known


def test_messages_about_masks_are_charged_at_the_rate_of_the_update():
    windows = UpdateWindows(windows=(), operations=None, masking_up=500)
    model = MODEL
    none = (unavailable("none", "none", "no meter"),)
    plain = UpdateWindows(windows=(), operations=None)
    found = [
        next(
            p
            for p in phase_energies(made, none, model=model, meters=("none",), sent_bytes=1000, transmit_s=0.2)
            if p.phase == "transmit"
        )
        .readings[1]
        .energy_j
        for made in (plain, windows)
    ]
    assert found[1] == pytest.approx(1.5 * found[0])
    assert found[1] - found[0] == pytest.approx(model.radio(500, 0.1).energy_j)

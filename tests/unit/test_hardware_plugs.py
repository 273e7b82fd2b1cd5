"""Smart plugs: the messages that they send, and the windows that can be made of them.

Tasmota's payloads are as in issues 2785 (firmware of 2018) and 20459 (of 2024) of arendst/Tasmota; Shelly's have the
form of https://shelly-api-docs.shelly.cloud/gen2/General/Notifications and /gen2/ComponentsAndServices/Switch.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.energy import EnergyReading
from hardware.errors import MeterError
from hardware.meters import shelly, tasmota
from hardware.meters.plug import Listener
from hardware.pushed_meter import PushedMeter

POW_2018 = (
    b'{"Time":"2018-05-22T02:13:59","ENERGY":{"Total":0.052,"Yesterday":0.000,"Today":0.052,"Period":0,"Power":7,'
    b'"Factor":0.00,"Voltage":206,"Current":0.000}}'
)
ATHOM_2024 = (
    b'{"Time":"2024-01-14T18:03:15","ENERGY":{"TotalStartTime":"2024-01-14T18:02:42","Total":1066.000,"Yesterday":0.000,'
    b'"Today":0.000,"Period":0.00,"Power":5.25,"ApparentPower":0.00,"ReactivePower":0.00,"Factor":0.00,"Voltage":227.7,'
    b'"Current":0.000}}'
)
TWO_PHASES = b'{"ENERGY":{"Total":[1.5,0.5],"Power":[10.0,2.5]}}'


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 700.0

    def __call__(self) -> float:
        return self.now_s


def sensor(power: str, total: str = "") -> bytes:
    """A SENSOR message with these digits."""
    counter = f'"Total":{total},' if total else ""
    return f'{{"Time":"2026-01-01T00:00:00","ENERGY":{{{counter}"Power":{power}}}}}'.encode()


def notified(**status: object) -> bytes:
    params = {"ts": 1631266595.43, "switch:0": {"id": 0, **status}}
    return json.dumps(
        {"src": "shellypluss", "dst": "shellypluss/events", "method": "NotifyStatus", "params": params}
    ).encode()


def unavailable(reading: EnergyReading) -> str:
    assert (reading.provenance, reading.energy_j) == ("unavailable", None)
    return reading.reason


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plug(clock: Clock) -> tasmota.TasmotaMeter:
    """Started, and heard of once, ten seconds ago, with 2 W."""
    meter = tasmota.TasmotaMeter("plug-1", clock=clock)
    meter.start()
    say(meter, "2.00")
    clock.now_s += 10
    return meter


def say(meter: tasmota.TasmotaMeter, power: str, total: str = "") -> None:
    assert meter.receive("tele/plug-1/SENSOR", sensor(power, total))


# --- messages -------------------------------------------------------------------------------------------------------


def test_recorded_messages_of_tasmota() -> None:
    assert tasmota.parse(POW_2018) == ((7.0, 1.0), (pytest.approx(0.052 * 3.6e6), pytest.approx(3600.0)))
    assert tasmota.parse(ATHOM_2024) == ((5.25, 0.01), (pytest.approx(1066 * 3.6e6), pytest.approx(3600.0)))
    (power_w, step_w), counter = tasmota.parse(TWO_PHASES)
    assert (power_w, step_w) == (12.5, pytest.approx(0.2))
    assert counter is not None
    assert counter[0] == pytest.approx(2 * 3.6e6)


def test_notifications_of_shelly() -> None:
    power, counter = (
        shelly.parse(notified(apower=8.9, aenergy={"total": 1234.567, "by_minute": [1.0], "minute_ts": 1})) or ()
    )
    assert power == (8.9, 0.1)
    assert counter == (pytest.approx(1234.567 * 3600), pytest.approx(3.6))
    assert shelly.parse(notified(apower=9)) == ((9.0, 1.0), None)
    assert shelly.parse(notified(temperature={"tC": 40.0})) is None
    assert shelly.parse(b'{"method":"NotifyEvent","params":{}}') is None
    pm = b'{"method":"NotifyStatus","params":{"ts":1.0,"pm1:0":{"id":0,"apower":3.5}}}'
    assert shelly.parse(pm) == ((3.5, 0.1), None)


@pytest.mark.parametrize("parse", [tasmota.parse, shelly.parse])
@settings(max_examples=100, deadline=None)
@given(
    payload=st.one_of(
        st.binary(max_size=80),
        st.integers(0, len(ATHOM_2024)).map(lambda n: ATHOM_2024[:n]),
        st.text(max_size=80).map(str.encode),
    )
)
def test_damaged_messages_are_refused_or_none(parse, payload: bytes) -> None:
    if payload == ATHOM_2024:
        return
    try:
        found = parse(payload)
    except ValueError:
        return
    assert found is None


@pytest.mark.parametrize("power", ["null", "true", '"7"', "NaN", "Infinity", "-3.5", "[]", "[1,null]", "{}", "1e400"])
def test_a_power_that_is_none_makes_the_plug_unavailable(plug: tasmota.TasmotaMeter, power: str, clock: Clock) -> None:
    say(plug, power)
    clock.now_s += 1
    assert unavailable(plug.read())


# --- windows --------------------------------------------------------------------------------------------------------


def test_a_plug_listens_to_its_own_topics_only(plug: tasmota.TasmotaMeter) -> None:
    assert isinstance(plug, Listener)
    assert plug.filters == ("tele/plug-1/SENSOR", "tele/plug-1/LWT")
    assert not plug.receive("tele/plug-2/SENSOR", POW_2018)
    assert tasmota.TasmotaMeter("home/p/tele/SENSOR").filters == ("home/p/tele/SENSOR", "home/p/tele/LWT")
    assert shelly.ShellyMeter("s-1").filters == ("s-1/events/rpc", "s-1/online")
    with pytest.raises(MeterError, match="wildcards"):
        shelly.ShellyMeter("s-1/#")


def test_power_holds_from_report_to_report(plug: tasmota.TasmotaMeter, clock: Clock) -> None:
    """2 W for 10 s, then 10 W for 10 s and for the 4 s since the report; the change may have come any time before."""
    plug.start()
    clock.now_s += 10
    say(plug, "10.00")
    clock.now_s += 10
    say(plug, "10.00")
    clock.now_s += 4
    reading = plug.read()
    assert reading.energy_j == pytest.approx(2 * 10 + 10 * 14)
    assert reading.uncertainty_j == pytest.approx(8 * 10 + 8 * 4 + 0.01 / 2 * 24)
    assert (reading.provenance, reading.source, reading.scope) == ("measured", "tasmota:plug-1", "wall")
    assert (reading.samples, reading.duration_s) == (2, 24.0)


def test_a_window_without_a_report_has_no_figure(plug: tasmota.TasmotaMeter, clock: Clock) -> None:
    say(plug, "2.00")
    plug.start()
    clock.now_s += 2
    assert "about every 10 s: none that counts came in this window of 2 s" in unavailable(plug.read())


def test_the_first_report_may_be_of_last_week(clock: Clock) -> None:
    meter = tasmota.TasmotaMeter("plug-1", clock=clock)
    meter.start()
    clock.now_s += 1
    say(meter, "2000")
    clock.now_s += 1
    assert "none that counts" in unavailable(meter.read())


def test_a_plug_that_falls_silent_is_stale(plug: tasmota.TasmotaMeter, clock: Clock) -> None:
    say(plug, "2.00")
    clock.now_s += 24
    plug.read()
    clock.now_s += 2
    reason = unavailable(plug.read())
    assert "no report from tasmota:plug-1 for 26 s (limit 25 s)" in reason
    assert "TelePeriod" in reason


def test_a_last_will_ends_it_until_the_next_report(plug: tasmota.TasmotaMeter, clock: Clock) -> None:
    assert plug.receive("tele/plug-1/LWT", b"Offline")
    clock.now_s += 1
    assert "offline" in unavailable(plug.read())
    say(plug, "2.00")
    plug.receive("tele/plug-1/LWT", b"Online")
    clock.now_s += 1
    plug.read()
    clock.now_s += 9
    say(plug, "2.00")
    assert plug.read().energy_j == pytest.approx(18.0)


def test_nobody_ever_spoke(clock: Clock) -> None:
    meter = shelly.ShellyMeter("s-1", clock=clock)
    assert "before start" in unavailable(meter.read())
    meter.start()
    assert "may this party read s-1/events/rpc" in unavailable(meter.read())
    meter.close()
    assert "closed" in unavailable(meter.read())


def test_a_plug_without_a_board_is_no_zero(plug: tasmota.TasmotaMeter, clock: Clock) -> None:
    say(plug, "0.00")
    plug.start()
    clock.now_s += 10
    say(plug, "0.00")
    assert "said 0 W" in unavailable(plug.read())


def test_a_long_window_takes_the_counter(clock: Clock) -> None:
    """A load that jumps between reports: held power is wrong by far, the counter by its step and the ends."""
    meter = tasmota.TasmotaMeter("plug-1", clock=clock)
    counted_kwh = 1.0
    for report in range(13):
        say(meter, "10.0" if report % 2 else "2.0", f"{counted_kwh:.5f}")
        if report == 1:
            meter.start()
        clock.now_s += 10
        counted_kwh += 7.0 * 10 / 3.6e6
    reading = meter.read()
    assert reading.energy_j == pytest.approx(7.0 * 110 + 10 - 5 * 10, abs=110)
    assert reading.resolution_j == pytest.approx(36.0)
    assert reading.uncertainty_j is not None
    assert abs(reading.energy_j - 7.0 * 120) <= reading.uncertainty_j < 8 * 12 * 10


def test_a_counter_that_was_reset_is_not_taken(clock: Clock) -> None:
    meter = tasmota.TasmotaMeter("plug-1", clock=clock)
    say(meter, "4.0", "9.00000")
    clock.now_s += 10
    say(meter, "4.0", "9.00001")
    meter.start()
    for _ in range(5):
        clock.now_s += 10
        say(meter, "4.0", "0.00000")
    reading = meter.read()
    assert reading.energy_j == pytest.approx(4.0 * 50)


def test_a_long_silence_within_a_window_is_not_filled_unless_the_counter_does(clock: Clock) -> None:
    for total, again, energy_j in (("", "", None), ("1.00000", "1.00200", 7200.0)):
        meter = tasmota.TasmotaMeter("plug-1", clock=clock)
        say(meter, "2.00", total)
        clock.now_s += 10
        say(meter, "2.00", total)
        meter.start()
        clock.now_s += 3600
        say(meter, "2.00", again)
        reading = meter.read()
        if energy_j is None:
            assert "silent for too long" in unavailable(reading)
        else:
            assert reading.energy_j == pytest.approx(energy_j)
        clock.now_s += 10
        say(meter, "2.00", again)
        assert meter.read().energy_j == pytest.approx(20.0)


def test_a_shelly_that_has_nothing_to_say_is_not_stale(clock: Clock) -> None:
    """A burst of changes, then only the counter once a minute."""
    meter = shelly.ShellyMeter("s-1", clock=clock)
    for power_w in (5.0, 6.0, 5.0, 6.0, 5.0, 5.5):
        meter.receive("s-1/events/rpc", notified(apower=power_w))
        clock.now_s += 1
    meter.start()
    clock.now_s += 58
    meter.receive("s-1/events/rpc", notified(aenergy={"total": 100.083}))
    clock.now_s += 30
    assert meter.read().energy_j == pytest.approx(5.5 * 88)


def test_a_counter_that_is_no_number_is_left_out(plug: tasmota.TasmotaMeter, clock: Clock) -> None:
    plug.start()
    clock.now_s += 10
    say(plug, "2.00", "1e999")
    assert plug.read().energy_j == pytest.approx(20.0)


def test_shelly_leaves_out_what_did_not_change(clock: Clock) -> None:
    meter = shelly.ShellyMeter("s-1", clock=clock)
    meter.receive("s-1/events/rpc", notified(apower=5.0, aenergy={"total": 100.0}))
    meter.start()
    clock.now_s += 60
    meter.receive("s-1/events/rpc", notified(aenergy={"total": 100.083}))
    assert meter.reported
    reading = meter.read()
    assert reading.energy_j == pytest.approx(300.0, rel=0.01)


@settings(max_examples=80, deadline=None)
@given(
    reports=st.lists(st.tuples(st.floats(0.1, 40.0), st.floats(0.5, 50.0)), min_size=4, max_size=15),
    cuts=st.sets(st.integers(2, 14), max_size=4),
)
def test_windows_add_up_to_the_long_one(reports: list[tuple[float, float]], cuts: set[int]) -> None:
    """Power alone, windows cut at reports: their joules are those of one window."""
    clock = Clock()

    def made() -> PushedMeter:
        return PushedMeter(
            name="m", source="m:1", scope="wall", interval_s=100.0, least_stale_s=999.0, remedy="", clock=clock
        )

    long, cut = made(), made()
    total_j = 0.0
    for index, (gap_s, power_w) in enumerate(reports):
        clock.now_s += gap_s
        for meter in (long, cut):
            meter.offer(power_w)
            if index == 1:
                meter.start()
        if index in cuts and index < len(reports) - 1:
            total_j += cut.read().energy_j or 0.0
    total_j += cut.read().energy_j or 0.0
    assert total_j == pytest.approx(long.read().energy_j or 0.0, rel=1e-9)

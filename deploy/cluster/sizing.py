"""What 10^3, 10^5 or 10^7 devices need of brokers, links, server and attackers, by proportion.

Every figure is a measured cost times a rate: nothing here knows how a cluster divides its work, and a broker of another
make costs another share of a core. `table` states what is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from contract.messages import MAX_HEAD_BYTES
from deploy.cluster.broker_cost import BrokerCost
from deploy.cluster.traffic import ACK_BYTES, NAME_BYTES, Traffic, state_bytes

BUSY = 0.5
"""Share of a core or link that may be planned with: rounds make bursts."""
STATES_A_ROUND = 2
"""`ServerState` goes to every device when a round opens and when it closes."""


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the table follows from.

    Attributes:
        run: What the traffic was measured on.
        traffic: Of one update.
        cost: Of a broker.
    """

    run: str
    traffic: Traffic
    cost: BrokerCost


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet needs.

    Attributes:
        devices: Connections of devices.
        updates_per_s: Updates made, mean over the period.
        deliveries_per_s: Messages that the broker passes on, each receiver counted.
        in_bytes_per_s: Into the broker.
        out_bytes_per_s: Out of it.
        connections_bytes: Memory for idle connections.
        broker_cores: Cores of the measured broker that this keeps busy, each to `BUSY`.
        ledger_bytes_per_day: Growth of the server's ledger by the updates in it.
        workers: Attack workers of one core; `None` without an attacker.
        state_bytes: Of the message that opens a round.
    """

    devices: int
    state_bytes: int
    updates_per_s: float
    deliveries_per_s: float
    in_bytes_per_s: float
    out_bytes_per_s: float
    connections_bytes: float
    broker_cores: float
    ledger_bytes_per_day: float
    workers: float | None


def need(measured: Measured, devices: int, *, period_s: float, asked: int) -> Need:
    """What `devices` need with a round each `period_s` seconds that asks this many of them for an update.

    Args:
        measured: Costs.
        devices: All that are connected.
        period_s: From one round to the next.
        asked: Devices that a round asks.
    """
    traffic, cost = measured.traffic, measured.cost
    updates = min(asked, devices) / period_s
    states, state = STATES_A_ROUND * devices / period_s, state_bytes(min(asked, devices))
    flows = _flows(traffic)
    came = updates * sum(flow.nbytes for flow in flows if flow.published)
    went = updates * sum(flow.nbytes * flow.receivers for flow in flows) + states * state
    deliveries = updates * sum(flow.messages * flow.receivers for flow in flows) + states
    return Need(
        devices=devices,
        state_bytes=state,
        updates_per_s=updates,
        deliveries_per_s=deliveries,
        in_bytes_per_s=came,
        out_bytes_per_s=went,
        connections_bytes=devices * cost.connection_bytes,
        broker_cores=(deliveries * cost.message_s + went * cost.byte_s) / BUSY,
        ledger_bytes_per_day=updates * traffic.update_bytes * 86_400,
        workers=None if traffic.attack_s is None else updates * traffic.attack_s / BUSY,
    )


class Flow(msgspec.Struct, frozen=True):
    """What one update makes the broker pass on: `nbytes` in `messages` to `receivers`.

    `published` is false for what lies there retained already: the model comes once a round, not once an update.
    """

    nbytes: float
    messages: int
    receivers: int = 1
    published: bool = True


def _flows(traffic: Traffic) -> list[Flow]:
    up, model = traffic.frames(traffic.update_bytes), traffic.frames(traffic.model_bytes)
    flows = [
        Flow(traffic.update_bytes, up),
        Flow(traffic.model_bytes, model, published=False),
        Flow(ACK_BYTES, 1),
        Flow(traffic.report_bytes, 1),
    ]
    if traffic.attack_s is not None:  # the mirror, the score, and the reconstruction, which device and server read
        recon = Flow(traffic.other_bytes, traffic.frames(traffic.other_bytes), 2)
        flows += [Flow(traffic.update_bytes, up), Flow(traffic.score_bytes, 1), recon]
    return flows


def table(measured: Measured, devices: Sequence[int], *, period_s: float, asked: int | None = None) -> str:
    """The table as Markdown.

    Args:
        measured: Costs.
        devices: Sizes of fleets.
        period_s: From one round to the next.
        asked: Devices that a round asks; `None` asks all.
    """
    needs = [need(measured, count, period_s=period_s, asked=count if asked is None else asked) for count in devices]
    rows = [
        ("message that opens a round", [_state(it.state_bytes) for it in needs]),
        ("updates a second", [_number(it.updates_per_s) for it in needs]),
        ("messages that the broker passes on, a second", [_number(it.deliveries_per_s) for it in needs]),
        ("into the broker", [_bytes(it.in_bytes_per_s) + "/s" for it in needs]),
        ("out of the broker", [_bytes(it.out_bytes_per_s) + "/s" for it in needs]),
        ("memory of idle connections", [_bytes(it.connections_bytes) for it in needs]),
        ("broker cores", [_whole(it.broker_cores) for it in needs]),
        ("ledger grows by, a day", [_bytes(it.ledger_bytes_per_day) for it in needs]),
        ("attack workers, one core each", ["none" if it.workers is None else _whole(it.workers) for it in needs]),
    ]
    head = f"| {'every device' if asked is None else f'{asked:,} devices'} each {period_s:g} s "
    lines = [head + "".join(f"| {count:,} devices " for count in devices) + "|", "|---" * (len(devices) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)]) + "\n"


MOST_ASKED = (MAX_HEAD_BYTES - state_bytes(0)) // NAME_BYTES
"""Devices that one round can ask: their names have to fit into a record of SPEC.md."""


def _state(nbytes: int) -> str:
    return (
        _bytes(nbytes) if nbytes <= MAX_HEAD_BYTES else f"{_bytes(nbytes)}: **over {_bytes(MAX_HEAD_BYTES)}, refused**"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _whole(value: float) -> str:
    """Rounded up: half a core is a core."""
    return f"{max(1, -int(-value // 1)):,}"


def _bytes(value: float) -> str:
    unit = next((it for it in _UNITS if value < 1000 * it[0]), _UNITS[-1])
    return f"{value / unit[0]:,.3g} {unit[1]}" if value < 1000 * unit[0] else f"{value / unit[0]:,.0f} {unit[1]}"


_UNITS = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB"))

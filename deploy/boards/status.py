"""How a board is: what systemd, its clock and its journal say over ssh, beside what the broker has of its device.

The device itself tells systemd what it does (`edge_client.supervision`), and the broker whether it is there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from deploy.boards.presence import Heard

ONLINE = "online"
UNREACHABLE = "unreachable"


class Battery(msgspec.Struct, frozen=True, kw_only=True):
    """One battery of a board; `charge_percent` is `None` where its driver gives no capacity."""

    name: str
    charge_percent: int | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One board. What is not known says why; nothing stands for it.

    Attributes:
        board: Its name.
        unit: What ssh says: `online`, `offline (broker lost)`, `finished or stopped`, `failed (why)`, `starting`, `not
            installed` or `unreachable`; with `, resting` for a device that sleeps.
        broker: What the broker says: `online`, `offline`, `never seen`, or `unknown` with the reason.
        differ: How the two contradict each other; empty when they do not.
        run: The run that the device takes part in.
        round: Round and how many there are, and who says so when it is not the device itself; empty when nobody does.
        batteries: Its batteries.
        meter: The device's energy meter; empty when unknown, `none` when it has none.
        undervolted: Whether its supply is or was too weak; `None` when the board cannot tell.
        release: Release that is current.
        starts: How often systemd has started the device again since a person did; `None` when unknown.
        clock_s: How far the board's clock is ahead of this machine's; `None` when unknown.
        clock_error_s: How far that may be wrong: half the time that asking took.
        synchronised: Whether the board's clock follows a time server; `None` when it does not say.
        error: Last error in its journal; empty when there is none in what was looked at, `None` when it is unknown.
    """

    board: str
    unit: str
    broker: str = "unknown: not asked"
    differ: str = ""
    run: str = ""
    round: str = ""
    batteries: tuple[Battery, ...] = ()
    meter: str = ""
    undervolted: bool | None = None
    release: str = ""
    starts: int | None = None
    clock_s: float | None = None
    clock_error_s: float | None = None
    synchronised: bool | None = None
    error: str | None = None

    @property
    def reached(self) -> bool:
        """Whether ssh did."""
        return self.unit != UNREACHABLE

    @property
    def power(self) -> str:
        """Battery or meter as text."""
        parts = [f"{it.name} {_charge(it)}" for it in self.batteries]
        if not self.reached:
            parts.append("battery unavailable(not reached)")
        if self.meter not in {"", "none"}:
            parts.append(f"meter {self.meter}")
        elif not parts:
            parts.append(f"unavailable(no battery, {'no meter' if self.meter else 'meter unknown'})")
        return ", ".join([*parts, *(["undervoltage"] if self.undervolted else [])])

    @property
    def clock(self) -> str:
        """Offset as text; what is below its own uncertainty is not told as a figure."""
        if self.clock_s is None or self.clock_error_s is None:
            return "unknown"
        off = (
            f"within {max(self.clock_error_s, 0.1):.1f} s"
            if abs(self.clock_s) <= self.clock_error_s
            else (f"{self.clock_s:+.1f} ± {self.clock_error_s:.1f} s")
        )
        return off if self.synchronised is not False else f"{off}, not synchronised"


def _charge(battery: Battery) -> str:
    return "unavailable(no capacity)" if battery.charge_percent is None else f"{battery.charge_percent} %"


def read(board: str, told: dict[str, Any]) -> Status:
    """What a board answered to `status.yml`."""
    words = dict(word.split("=", 1) for word in str(told.get("StatusText", "")).split() if "=" in word)
    clock_s, error_s = _clock(told)
    flags = str(told.get("undervolted", ""))
    return Status(
        board=board,
        unit=_unit(told, words),
        run=words.get("run", ""),
        round=_round(told, words),
        batteries=_batteries(str(told.get("batteries", ""))),
        meter=words.get("meter", ""),
        undervolted=bool(int(flags, 16) & 0x10001) if flags.startswith("0x") else None,  # now, or since it is on
        release=str(told.get("release", "")),
        starts=int(told["NRestarts"]) if told.get("release") and told.get("NRestarts") else None,
        clock_s=clock_s,
        clock_error_s=error_s,
        synchronised={"yes": True, "no": False}.get(str(told.get("synchronised", ""))),
        error=str(told.get("error", "")) if told.get("journal") else None,
    )


def with_broker(status: Status, broker: Heard) -> Status:
    """The same board with what the broker has of its device."""
    if broker.unavailable:
        return msgspec.structs.replace(status, broker=f"unknown: {broker.unavailable.partition(': ')[0]}")
    run, state = broker.of(status.board, status.run)
    said = "never seen" if state is None else state.status
    server = broker.servers.get(run)
    round_ = status.round or (f"{server.round}/{server.rounds} (server)" if server is not None else "")
    meter = status.meter or (state.meter if state is not None else "")
    return msgspec.structs.replace(
        status, broker=said, run=run, round=round_, meter=meter, differ=_difference(status, said)
    )


def _difference(status: Status, broker: str) -> str:
    """How ssh and broker contradict each other, with what may be behind it."""
    runs = status.unit.startswith(ONLINE)
    if runs == (broker == ONLINE) or status.unit == "starting":
        return ""
    if runs:
        why = "it still prepares its task, or speaks to another broker than this enrolment's"
    elif not status.reached:
        return "ssh does not reach the board, and the broker has its device online: it works"
    else:
        why = "its last will is still to come, or another process has its certificate"
    return f"by ssh its device is {status.unit}, by the broker {broker}: {why}"


def _unit(told: dict[str, Any], words: dict[str, str]) -> str:
    if not told.get("release"):
        return "not installed"
    active, result = str(told.get("ActiveState", "unknown")), str(told.get("Result", ""))
    if active == "active":
        said = "offline (broker lost)" if words.get("broker") == "lost" else ONLINE
        return f"{said}, resting" if words.get("resting") == "yes" else said
    if active == "inactive":
        return "finished or stopped"
    return f"failed ({result})" if active == "failed" else active.replace("activating", "starting")


def _round(told: dict[str, Any], words: dict[str, str]) -> str:
    """The round that the device is in; else the last one that its journal has an update of."""
    if words.get("round", "-") != "-":
        return words["round"]
    return f"{told['trained']} (journal)" if told.get("trained") else ""


def _batteries(text: str) -> tuple[Battery, ...]:
    """`NAME:CAPACITY …`, as `status.yml` prints them."""
    found = (word.partition(":") for word in text.split())
    return tuple(
        Battery(name=name, charge_percent=int(charge) if charge.isdecimal() else None) for name, _, charge in found
    )


def _clock(told: dict[str, Any]) -> tuple[float | None, float | None]:
    """Offset and its bound: the clock was read at some moment between the two readings here (Cristian 1989)."""
    try:
        now, before, after = float(told["now"]), float(told["before_s"]), float(told["after_s"])
    except (KeyError, ValueError):
        return None, None
    return now - (before + after) / 2, (after - before) / 2

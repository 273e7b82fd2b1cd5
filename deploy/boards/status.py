"""How a board is, from what systemd, its clock and its journal say over ssh.

The device itself tells systemd what it does (`edge_client.supervision`). The broker's retained states say the same, but
reading them needs the server's certificate, and a second connection with that would end the server's own.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One board.

    Attributes:
        board: Its name.
        state: `online`, `offline (broker lost)`, `finished or stopped`, `failed (why)`, `starting`, `not installed` or
            `unreachable`.
        round: Round and how many there are; empty when the device does not tell.
        power: Battery or meter, and a warning of undervoltage.
        release: Release that is current.
        starts: How often systemd has started the device again since a person did; `None` when unknown.
        clock_s: How far the board's clock is ahead of this machine's; `None` when unknown.
        clock_error_s: How far that may be wrong: the time that asking took.
        synchronised: Whether the board's clock follows a time server; `None` when it does not say.
        error: Last error in its journal, or why it is not reached.
    """

    board: str
    state: str
    round: str = ""
    power: str = ""
    release: str = ""
    starts: int | None = None
    clock_s: float | None = None
    clock_error_s: float | None = None
    synchronised: bool | None = None
    error: str = ""

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


def read(board: str, told: dict[str, Any]) -> Status:
    """What a board answered to `status.yml`."""
    words = dict(word.split("=", 1) for word in str(told.get("StatusText", "")).split() if "=" in word)
    clock_s, error_s = _clock(told)
    synchronised = {"yes": True, "no": False}.get(str(told.get("synchronised", "")))
    return Status(
        board=board,
        state=_state(told, words),
        round=words.get("round", ""),
        power=_power(told, words),
        release=str(told.get("release", "")),
        starts=int(told["NRestarts"]) if told.get("release") and told.get("NRestarts") else None,
        clock_s=clock_s,
        clock_error_s=error_s,
        synchronised=synchronised,
        error=str(told.get("error", "")),
    )


def _state(told: dict[str, Any], words: dict[str, str]) -> str:
    if not told.get("release"):
        return "not installed"
    active, result = str(told.get("ActiveState", "unknown")), str(told.get("Result", ""))
    if active == "active":
        return "offline (broker lost)" if words.get("broker") == "lost" else "online"
    if active == "inactive":
        return "finished or stopped"
    return f"failed ({result})" if active == "failed" else active.replace("activating", "starting")


def _power(told: dict[str, Any], words: dict[str, str]) -> str:
    parts = [f"battery {told['battery']} %"] if told.get("battery") else []
    if words.get("meter"):
        parts.append("no meter" if words["meter"] == "none" else words["meter"])
    flags = str(told.get("undervolted", ""))
    if flags.startswith("0x") and int(flags, 16) & 0x10001:  # now, or since it was switched on
        parts.append("undervoltage")
    return ", ".join(parts)


def _clock(told: dict[str, Any]) -> tuple[float | None, float | None]:
    """Offset and its bound: the clock was read at some moment between the two readings here (Cristian 1989)."""
    try:
        now, before, after = float(told["now"]), float(told["before_s"]), float(told["after_s"])
    except (KeyError, ValueError):
        return None, None
    return now - (before + after) / 2, (after - before) / 2

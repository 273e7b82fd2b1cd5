"""The emulated devices of a study as processes: which boards they stand in for, and how they are limited.

`[devices] per_process = 1` gives each device a process of its own, which can be killed, stopped and starved like a
board. More of them share a process (`deploy.virtual`) and cost a fraction of its memory.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link_settings import LinkSettings
from deploy import cgroups
from deploy.attendance import Attendance
from deploy.board import BoardProfile, CpuShare, LinkProfile, Positive, load_board
from deploy.broker import LOOPBACK, free_port
from deploy.limits import Limits
from deploy.shaped_links import ShapedLink, ShapedLinks
from deploy.supervisor import Party
from deploy.virtual import VirtualDevice, VirtualSettings
from edge_client.settings import ClientSettings

HERE = "this machine"
_RESTARTS = 1000
_FILES_EACH, _FILES_MORE = 3, 200
"""Open files of a process: of each of its devices, and its own."""

Write = Callable[[str, msgspec.Struct], Path]


class DeviceGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[devices.group]]`: so many devices, after those of the groups before, that stand in for one kind of board.

    Attributes:
        count: How many.
        board: A board profile of `deploy/boards`, or the path of one's own (`.toml`); `None`: this machine as it is.
        cpu_share: Of one core of this machine, in place of the profile's: a straggler has less.
        memory_mb: In place of the profile's.
        rate_kbit_s: Bandwidth of the link to the broker, in place of the profile's.
        latency_ms: One way, in place of the profile's.
        energy_profile: In place of the profile's.
    """

    count: Annotated[int, Meta(ge=1)]
    board: str | None = None
    cpu_share: CpuShare | None = None
    memory_mb: Positive | None = None
    rate_kbit_s: Positive | None = None
    latency_ms: Annotated[float, Meta(ge=0)] | None = None
    energy_profile: str | None = None

    def profile(self, energy_profile: str) -> BoardProfile:
        """The board with this group's changes.

        Args:
            energy_profile: Of a group without a board.

        Raises:
            ConfigurationError: No such board.
        """
        plain = BoardProfile(name=HERE, title=HERE, energy_profile=energy_profile)
        board = plain if self.board is None else load_board(self.board)
        own = {key: getattr(self, key) for key in ("cpu_share", "memory_mb", "energy_profile")}
        board = msgspec.structs.replace(board, **{key: value for key, value in own.items() if value is not None})
        link = {key: value for key in ("rate_kbit_s", "latency_ms") if (value := getattr(self, key)) is not None}
        if link:
            board = msgspec.structs.replace(board, link=msgspec.structs.replace(board.link or LinkProfile(), **link))
        return board


def boards_of(groups: Sequence[DeviceGroup], clients: int, energy_profile: str) -> list[BoardProfile]:
    """The board of each device; those beyond the groups are this machine as it is.

    Raises:
        ConfigurationError: No such board, or more devices in groups than there are.
    """
    found = [board for group in groups for board in [group.profile(energy_profile)] * group.count]
    if len(found) > clients:
        raise ConfigurationError(
            f"devices.group: {len(found)} devices in groups, the run has clients = {clients}; lower count"
        )
    rest = BoardProfile(name=HERE, title=HERE, energy_profile=energy_profile)
    return found + [rest] * (clients - len(found))


class Fleet:
    """All device processes of one arm of a study.

    Args:
        settings: Each device's settings, without what its board decides.
        boards: The board of each.
        devices: The study's section `[devices]`.
        ports: Where each kind of shaped link is found.
        limits: Holds the processes down.
        label: Of the arm; tells limits of arms apart.
        write: Writes a party's settings.
        logs: Folder of the logs.
    """

    def __init__(
        self,
        settings: Sequence[ClientSettings],
        boards: Sequence[BoardProfile],
        devices: Any,
        *,
        ports: dict[LinkProfile, int],
        limits: Limits,
        label: str,
        write: Write,
        logs: Path,
    ) -> None:
        self._limits, self._label, self._write, self._logs = limits, label, write, logs
        self._churn = devices.churn
        self._attendance: dict[str, Attendance] = {}
        stands_in = "a board" if any(_stands_in(board) for board in boards) else ""
        placed = [_placed(s, board, ports, stands_in) for s, board in zip(settings, boards, strict=True)]
        if devices.per_process == 1:
            self.parties = [self._alone(s, board) for s, board in zip(placed, boards, strict=True)]
        else:
            require_files(min(devices.per_process, len(placed)))
            cuts = range(0, len(placed), devices.per_process)
            self.parties = [
                self._together(placed[at : at + devices.per_process], boards[at : at + devices.per_process])
                for at in cuts
            ]

    def _alone(self, settings: ClientSettings, board: BoardProfile) -> Party:
        limited = board.cpu_share is not None or board.memory_mb is not None
        limit = self._limits.limited(f"{self._label}-{settings.node}", board) if limited else None
        on_start: Callable[[int], None] = (lambda _pid: None) if limit is None else limit.begin
        path = self._write(settings.node, settings)
        log = self._logs / f"{settings.node}.log"
        party = Party(settings.node, ["edge_client", str(path)], log, max_restarts=_RESTARTS, on_start=on_start)
        if self._churn is not None:
            self._attendance[settings.node] = Attendance(self._churn, settings.node, began_s=time.monotonic())
            party.away = not self._attendance[settings.node].present
        return party

    def _together(self, settings: Sequence[ClientSettings], boards: Sequence[BoardProfile]) -> Party:
        members = tuple(
            VirtualDevice(
                **{name: getattr(s, name) for name in ClientSettings.__struct_fields__},
                shaped=board.link is not None,
                pause=0.0 if board.cpu_share is None else 1.0 / board.cpu_share - 1.0,
            )
            for s, board in zip(settings, boards, strict=True)
        )
        name = f"devices-{settings[0].node.rpartition('-')[2]}-{settings[-1].node.rpartition('-')[2]}"
        path = self._write(name, VirtualSettings(devices=members, churn=self._churn))
        return Party(name, ["deploy.virtual", str(path)], self._logs / f"{name}.log", max_restarts=_RESTARTS)

    def attend(self, *, over: bool) -> None:
        """Lets processes come and go by the schedule; `over`: nobody who is away comes back."""
        now_s = time.monotonic()
        for party in self.parties:
            attendance = self._attendance.get(party.name)
            if attendance is None:
                continue
            if over:
                party.finished = party.finished or (party.away and party.pid is None)
                if party.away and party.pid is not None:
                    party.change("back")
                    del self._attendance[party.name]
                continue
            change = attendance.due(now_s)
            if change is not None:
                party.change(change)


def _stands_in(board: BoardProfile) -> bool:
    """Whether a device is something else than this machine as it is: by its name, or by a limit alone."""
    return board.name != HERE or (board.cpu_share, board.memory_mb, board.link) != (None, None, None)


def _placed(
    settings: ClientSettings, board: BoardProfile, ports: dict[LinkProfile, int], stands_in: str
) -> ClientSettings:
    """Settings of a device as that board; `stands_in` is what one without a board stands in for, if for anything."""
    link = settings.link
    if board.link is not None:
        tls = link.tls and msgspec.structs.replace(link.tls, server_name=link.tls.server_name or link.host)
        link = msgspec.structs.replace(link, host=LOOPBACK, port=ports[board.link], tls=tls)
    return msgspec.structs.replace(
        settings,
        link=link,
        energy_profile=board.energy_profile,
        board=f"emulated {board.name}" if board.name != HERE else "emulated",
        emulates=stands_in if board.name == HERE else board.name,
    )


def shaped_links(boards: Sequence[BoardProfile], link: LinkSettings) -> ShapedLinks | None:
    """A port for each kind of link among the boards; `None` without one."""
    kinds = dict.fromkeys(board.link for board in boards if board.link is not None)
    if not kinds:
        return None
    links = tuple(ShapedLink(port=free_port(), link=kind) for kind in kinds)
    return ShapedLinks(upstream_host=link.host, upstream_port=link.port, links=links)


def require_files(devices: int) -> None:
    """Raises this process's limit of open files, which its children inherit.

    Raises:
        EnvironmentFaultError: It cannot be as high as so many devices in one process need.
    """
    needed = _FILES_EACH * devices + _FILES_MORE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise EnvironmentFaultError(
            f"{devices} devices in one process need {needed} open files, this user may have {hard}: "
            "lower devices.per_process, or raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def limits() -> Limits:
    """Limits by what this machine allows."""
    return Limits(cgroups.find())

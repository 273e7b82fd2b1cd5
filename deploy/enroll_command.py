"""`spikeleak enroll …`."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from contract.errors import ConfigurationError

enroll_app = typer.Typer(
    no_args_is_help=True,
    help="Certificates, access rights and broker settings for a run over a network.\n\n"
    "Example: spikeleak enroll init --out lab --host broker.lan",
)

_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_DAYS = 730
_LONGEST_DAYS = 3650

console = Console()
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The enrolment folder.")]
Days = Annotated[int, typer.Option("--days", min=1, max=_LONGEST_DAYS, help="Validity of certificates, in days.")]


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _commands() -> ModuleType:
    """`deploy.enroll`, which needs a library that only the machine with the authority has.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        from deploy import enroll  # noqa: PLC0415 - keeps `--help` fast
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "cryptography":
            raise
        raise ConfigurationError("enroll: cryptography is not installed: pip install 'spikeleak[deploy]'") from error
    return enroll


def _place(value: str, option: str) -> str:
    """A host name or an address.

    Raises:
        ConfigurationError: Neither.
    """
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        if _HOST.fullmatch(value):
            return value
    raise ConfigurationError(f"{option} {value!r}: neither a host name (letters, digits, '-', '.') nor an IP address")


@enroll_app.command()
def init(  # noqa: PLR0917 - typer takes options as parameters
    out: Out,
    host: Annotated[
        str | None, typer.Option("--host", help="Name or address under which parties reach the broker.")
    ] = None,
    ip: Annotated[list[str] | None, typer.Option("--ip", help="A further address or name of the broker.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="The broker's port [8883].")] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Account that mosquitto runs as [this one; for root: mosquitto].")
    ] = None,
    broker_folder: Annotated[
        str | None, typer.Option("--broker-folder", help="Where DIR/broker will lie on the broker's machine.")
    ] = None,
    days: Days = _DAYS,
    renew: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--renew", help="New certificates for all but the devices; the authority stays.")
    ] = False,
) -> None:
    """Make a certificate authority, the broker's settings and the bundles of server, attacker and operator.

    Example: spikeleak enroll init --out lab --host broker.lan --ip 192.168.1.10
    """
    import msgspec  # noqa: PLC0415

    commands = _commands()
    chosen = {
        "host": None if host is None else _place(host, "--host"),
        "addresses": None if ip is None else tuple(_place(value, "--ip") for value in ip),
        "port": port,
        "user": user,
        "broker_folder": broker_folder,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    for name in ("user", "broker_folder"):
        if any(ord(letter) < 32 for letter in str(given.get(name, out))):
            raise ConfigurationError(f"--{name.replace('_', '-')} or --out: has a control character; choose another")
    if renew:
        enrolment = msgspec.structs.replace(commands.recorded(out), **given)
        commands.renew(out, enrolment, days=days)
    else:
        if host is None:
            raise ConfigurationError("--host: name the broker as devices will, for example --host broker.lan")
        given.setdefault("user", commands.default_user())
        given.setdefault("broker_folder", str(out.resolve() / "broker"))
        enrolment = commands.Enrolment(**given)
        commands.create(out, enrolment, days=days)
    folder = enrolment.broker_folder
    _say(f"authority and bundles: {out.resolve()}; ca/ca.key signs parties: keep it off the devices")
    _say(f"broker: mosquitto -c {folder}/mosquitto.conf (port {enrolment.port}, account {enrolment.user!r})")


@enroll_app.command()
def device(  # noqa: PLR0917 - typer takes options as parameters
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", help="Names of devices in the run.")],
    out: Out,
    at: Annotated[Path | None, typer.Option("--at", help="Folder in which the bundle will lie on its device.")] = None,
    days: Days = _DAYS,
    renew: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--renew", help="Another certificate for a device that has one, which is revoked.")
    ] = False,
    machine: Annotated[
        str | None,
        typer.Option("--wheelhouse", metavar="MACHINE", help="Add all that a board installs: aarch64, x86_64."),
    ] = None,
    python: Annotated[str, typer.Option("--python", help="The boards' Python: 3.11 or 3.13.")] = "3.11",
    run: Annotated[str | None, typer.Option("--run", help="With --wheelhouse: the run; one shard a device.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Data set to put in as files.")] = None,
    wheel: Annotated[Path | None, typer.Option("--wheel", help="Wheel of spikeleak, in place of a build.")] = None,
    cloud_init: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--cloud-init", help="With --wheelhouse: user data for a board's first boot.")
    ] = False,
    ssh_key: Annotated[list[Path] | None, typer.Option("--ssh-key", help="Public key file, for --cloud-init.")] = None,
    ntp: Annotated[list[str] | None, typer.Option("--ntp", help="Time server, for --cloud-init.")] = None,
) -> None:
    """Make a certificate and a bundle for each device, and give it its rights.

    With --wheelhouse a bundle installs itself on its board, without a network: `sh install.sh`. Wheels are taken as pip
    is configured; PIP_ARGS holds more options for it.

    Example: spikeleak enroll device pi-1 pi-2 --out lab --wheelhouse aarch64 --run trial
    """
    commands = _commands()
    installation = None
    if machine is None:
        given = {"--run": run, "--data": data, "--wheel": wheel, "--cloud-init": cloud_init}
        for option in (name for name, value in given.items() if value):
            raise ConfigurationError(f"{option}: only with --wheelhouse MACHINE (aarch64 or x86_64)")
    else:
        chosen = {"machine": machine, "python": python, "run": run, "datasets": data or (), "cloud_init": cloud_init}
        keys = tuple(_read(path, "--ssh-key") for path in ssh_key or ())
        installation = _installation(chosen, wheel, ssh_keys=keys, ntp_servers=tuple(ntp or ()))
    for folder in commands.add_devices(out, nodes, days=days, renewed=renew, place=at, installation=installation):
        _say(str(folder))
    _say("broker: reload for the new rights (kill -HUP, or systemctl reload mosquitto)")


def _installation(chosen: dict[str, Any], wheel: Path | None, **further: tuple[str, ...]) -> Any:
    """What the options say of a board's installation.

    Raises:
        ConfigurationError: Names the option.
    """
    from deploy.boards.installation import Installation  # noqa: PLC0415 - keeps `--help` fast
    from deploy.boards.wheelhouse import MACHINES, PYTHONS  # noqa: PLC0415

    for option, value, known in (("wheelhouse", chosen["machine"], MACHINES), ("python", chosen["python"], PYTHONS)):
        if value not in known:
            raise ConfigurationError(f"--{option} {value!r}: known are {', '.join(known)}")
    if chosen["run"] is None:
        raise ConfigurationError("--wheelhouse: name the run that the boards take part in, for example --run trial")
    chosen = {**chosen, "datasets": tuple(chosen["datasets"]), **further}
    return Installation(**chosen, own_wheel=wheel, pip_args=os.environ.get("PIP_ARGS", ""))


def _read(path: Path, option: str) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option} {path}: {error}") from error


@enroll_app.command()
def revoke(node: Annotated[str, typer.Argument(metavar="NODE", help="The party.")], out: Out) -> None:
    """Revoke a party's certificate and take its rights away.

    Example: spikeleak enroll revoke pi-2 --out lab
    """
    _commands().revoke(out, node)
    _say(f"{node}: revoked")
    _say(
        "broker: reload now (kill -HUP, systemctl reload mosquitto): its rights end; a restart ends an open connection"
    )


@enroll_app.command("list")
def list_(out: Out) -> None:
    """Show every party, when its certificate expires, and whether it is revoked.

    Example: spikeleak enroll list --out lab
    """
    from datetime import UTC, datetime  # noqa: PLC0415

    table = Table("party", "expires", "state", box=None, pad_edge=False)
    for entry in _commands().listed(out):
        expired = entry.not_after < datetime.now(UTC)
        state = f"revoked {entry.revoked:%Y-%m-%d}" if entry.revoked else "expired" if expired else "valid"
        table.add_row(entry.name, f"{entry.not_after:%Y-%m-%d}", state)
    console.print(table)

"""`spikeleak enroll`: who takes part over a network. Each function is one command on one enrolment folder.

A new folder appears whole or not at all, so that no command can leave half an authority or destroy one; one command at
a time works in a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from contract.configuration import decode_toml
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.topics import valid_name
from deploy.acl import PLUG_SUFFIX
from deploy.boards.installation import NOTHING, Installation
from deploy.enrolment import BROKER, RESERVED, SETTINGS, Enrolment, Entry, Folder

_PARTS = ("ca", "ca/issued", "broker", "broker/data", "devices")


def create(out: Path, enrolment: Enrolment, *, days: int) -> None:
    """Makes an enrolment folder.

    Args:
        out: Must not exist, or be empty.
        enrolment: Where the broker is.
        days: Validity of the certificates of broker, server, attacker and operator.

    Raises:
        ConfigurationError: The folder is there already, or the account that mosquitto runs as cannot use it.
        EnvironmentFaultError: It cannot be written.
    """
    if (out / SETTINGS).exists():
        raise ConfigurationError(
            f"--out {out}: is an enrolment folder; --renew makes the certificates of all but the devices anew"
        )
    with _writable(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigurationError(f"--out {out}: is there and not empty; name another folder")
        account = _other_account(out, enrolment)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            folder = Folder(Path(temporary) / "made", out)
            folder.path.mkdir(mode=0o711 if account else 0o700)
            for part in _PARTS:
                (folder.path / part).mkdir(mode=0o700)
            if account is not None:
                for part in ("broker", "broker/data"):
                    os.chown(folder.path / part, account.pw_uid, account.pw_gid)
            folder.make_authority(f"spikeleak {datetime.now(UTC):%Y-%m-%d %H:%M:%S}")
            folder.make_own(enrolment, days)
            folder.path.rename(out)


def renew(out: Path, enrolment: Enrolment, *, days: int) -> None:
    """Certificates of broker, server, attacker, operator anew, and the broker's files; authority and devices stay.

    The certificates that the four had are revoked.

    Raises:
        ConfigurationError: Not an enrolment folder.
        EnvironmentFaultError: It cannot be written, or another command works in it.
    """
    with _opened(out) as folder:
        folder.make_own(enrolment, days)


def add_devices(
    out: Path,
    nodes: Sequence[str],
    *,
    days: int,
    renewed: bool,
    place: Path | None = None,
    installation: Installation | None = None,
) -> list[Path]:
    """Makes one certificate and one bundle a device, and gives it its rights.

    Args:
        out: The enrolment folder.
        nodes: Names of devices.
        days: Validity.
        renewed: Whether a device that has one gets another; the old one is revoked.
        place: Folder in which a bundle will lie on its device; `None` for where it is written.
        installation: What the boards install; `None` leaves wheels, scripts and user data out.

    Returns:
        The folders of the bundles.

    Raises:
        ConfigurationError: A name cannot be one, or is taken; not an enrolment folder. Nothing was made then.
        EnvironmentFaultError: It cannot be written, or another command works in it.
    """
    with _opened(out) as folder:
        enrolment = recorded(out)
        for node in nodes:
            _check_node(folder, node, renewed=renewed)
        named = list(dict.fromkeys(nodes))
        host, port = enrolment.host, enrolment.port
        parts = dict.fromkeys(named, NOTHING) if installation is None else installation.parts(out, named, host, port)
        try:
            return [folder.make_device(enrolment, node, days, place, **parts[node]) for node in named]
        finally:
            folder.write_rights()


def revoke(out: Path, name: str) -> None:
    """Puts a party's certificate on the list of revoked ones and takes its rights away; again does no harm.

    Raises:
        ConfigurationError: No such party, or the broker; not an enrolment folder.
        EnvironmentFaultError: It cannot be written, or another command works in it.
    """
    with _opened(out) as folder:
        if name == BROKER:
            raise ConfigurationError(
                "broker: no party asks whether the broker's certificate is revoked; "
                "when its key is stolen, make a new enrolment folder and hand out new bundles"
            )
        if not valid_name(name) or not folder.certificate_file(name).exists():
            known = ", ".join(entry.name for entry in folder.entries() if entry.name != BROKER)
            raise ConfigurationError(f"{name!r}: not enrolled in {out}; enrolled are: {known}")
        folder.revoke(name)
        folder.write_rights()


def listed(out: Path) -> list[Entry]:
    """Every party, by name.

    Raises:
        ConfigurationError: Not an enrolment folder.
        EnvironmentFaultError: It cannot be read.
    """
    with _opened(out) as folder:
        return folder.entries()


def recorded(out: Path) -> Enrolment:
    """What `init` was told.

    Raises:
        ConfigurationError: Not an enrolment folder.
    """
    if not (out / SETTINGS).exists():
        raise ConfigurationError(
            f"--out {out}: no enrolment folder (it holds no {SETTINGS}); "
            f"make one with: spikeleak enroll init --out {out} --host BROKER_HOST"
        )
    return decode_toml(out / SETTINGS, Enrolment)


def default_user() -> str:
    """The account that mosquitto runs as: this one, or root's choice, `mosquitto`, where there is such an account."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam("mosquitto").pw_name
    return own


@contextlib.contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFaultError(f"{error.filename or out}: {error.strerror or error}") from error


@contextlib.contextmanager
def _opened(out: Path) -> Iterator[Folder]:
    """An enrolment folder, for this command alone."""
    recorded(out)
    with _writable(out), (out / "ca" / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentFaultError(f"--out {out}: another enroll command works there; wait for it") from error
        yield Folder(out)


def _check_node(folder: Folder, node: str, *, renewed: bool) -> None:
    if not valid_name(node):
        raise ConfigurationError(
            f"device {node!r}: 1 to 63 letters, digits, '_', '.', '-', starting with a letter or digit"
        )
    if node in RESERVED or node.endswith(PLUG_SUFFIX):
        raise ConfigurationError(
            f"device {node!r}: kept for another party ({', '.join(RESERVED)}, and NODE{PLUG_SUFFIX} for the plug of "
            "NODE); choose another name"
        )
    if not renewed and folder.certificate_file(node).exists():
        raise ConfigurationError(
            f"device {node!r}: is enrolled; --renew makes another certificate and revokes that one"
        )


def _other_account(out: Path, enrolment: Enrolment) -> pwd.struct_passwd | None:
    """The account to which the broker's folder is handed, if it is another than ours and the folder stays here.

    Raises:
        ConfigurationError: There is none of that name, only root could hand it over, or it cannot come to the folder.
    """
    if enrolment.broker_folder != str(out.resolve() / "broker"):
        return None
    try:
        account = pwd.getpwnam(enrolment.user)
    except KeyError as error:
        raise ConfigurationError(
            f"--user {enrolment.user}: no such account on this machine; name the one that mosquitto runs as, "
            "and --broker-folder where its files will lie on another machine"
        ) from error
    if account.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise ConfigurationError(f"--user {enrolment.user}: only root may hand files to another account")
    for parent in out.resolve().parents:
        if parent.exists() and not parent.stat().st_mode & 0o001 and parent.stat().st_uid != account.pw_uid:
            raise ConfigurationError(
                f"--out {out}: account {enrolment.user!r}, which mosquitto becomes, may not enter {parent}; "
                "choose another folder, or another --user"
            )
    return account

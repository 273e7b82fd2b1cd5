"""Where profiles lie: ``boards/`` in this room, or a file of the user's own, with its radio beside it."""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from hardware.errors import MeterError
from hardware.profile import Profile, Radio

ROOM = Path(__file__).parent
BOARDS = ROOM / "boards"
KEPT = "profiles"
"""Folder of a run in which profiles of the user's own lie, for its report."""


def profiles() -> tuple[str, ...]:
    """Names of the profiles there are."""
    return tuple(sorted(path.stem for path in BOARDS.glob("*.toml")))


def load_profile(spec: str) -> tuple[Profile, Radio | None]:
    """Read a profile together with its radio.

    Args:
        spec: One of `profiles()`, or the path of a file of the user's own, which ends in ``.toml``.

    Raises:
        MeterError: No such profile, or a file does not follow the format.
    """
    if not spec.endswith(".toml"):
        profile = decode_profile(_known(spec), spec)
        folder = ROOM
    else:
        path = Path(spec)
        profile = decode_profile(_read(path, "energy profile"), path.stem, where=str(path))
        folder = path.parent
        if profile.name in profiles():
            raise MeterError(
                f"energy profile {spec}: {profile.name!r} is a profile of this program, name yours otherwise"
            )
    return inherited(profile), _radio(profile, folder)


def inherited(profile: Profile) -> Profile:
    """The profile with the figures of the class that it inherits from, said so in its notes.

    Raises:
        MeterError: There is no such class, or it inherits itself.
    """
    if not profile.inherits:
        return profile
    base = decode_profile(_known(profile.inherits), profile.inherits)
    if base.inherits:
        raise MeterError(f"energy profile {profile.name!r} inherits {base.name!r}, which inherits {base.inherits!r}")
    said = f"every figure is that of the class {base.name} ({base.title}); none was taken on this board"
    notes = {f"{base.name}: {key}": note for key, note in base.notes.items()} | profile.notes
    return msgspec.structs.replace(
        profile,
        inherits="",
        constants=base.constants,
        operations=base.operations,
        absent=base.absent,
        notes={"class figures": said} | notes,
    )


def _known(name: str) -> bytes:
    known = profiles()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise MeterError(
            f"no energy profile is called {name!r}: {hint}Known: {', '.join(known)}; a file of your own ends in .toml"
        )
    return (BOARDS / f"{name}.toml").read_bytes()


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise MeterError(
            f"{what} {str(path)!r} cannot be read ({error}): give the path of a TOML file, or one of the known: "
            f"{', '.join(profiles())}"
        ) from error


def _radio(profile: Profile, folder: Path) -> Radio | None:
    if not profile.radio:
        return None
    if profile.radio.endswith(".toml"):
        path = folder / profile.radio
        return decode_radio(_read(path, f"energy profile {profile.name!r}: radio model"), path.stem)
    known = sorted(path.stem for path in ROOM.glob("*.toml"))
    if profile.radio not in known:
        raise MeterError(
            f"energy profile {profile.name!r}: no radio model is called {profile.radio!r}. Known: {', '.join(known)}; "
            "a file of your own, beside the profile, ends in .toml"
        )
    return decode_radio((ROOM / f"{profile.radio}.toml").read_bytes(), profile.radio)


def decode_profile(data: bytes, name: str, where: str = "") -> Profile:
    """Decode one file of ``boards/``, or a user's own.

    Args:
        data: Its content.
        name: Its name without the ending.
        where: Its path, for errors.

    Raises:
        MeterError: It is not TOML, has unknown or missing keys, or is called otherwise inside.
    """
    try:
        profile = msgspec.toml.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeterError(f"energy profile {where or repr(name)}: {error}") from error
    if profile.name != name:
        raise MeterError(f"energy profile {where or repr(name)} calls itself {profile.name!r}: name it like its file")
    return profile


def decode_radio(data: bytes, name: str) -> Radio:
    """Decode a radio's file.

    Raises:
        MeterError: It is not TOML, or has unknown or missing keys.
    """
    try:
        return msgspec.toml.decode(data, type=Radio)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeterError(f"radio model {name!r}: {error}") from error

"""An energy profile of the user's own, kept with the run that it prices."""

from __future__ import annotations

from pathlib import Path

import msgspec

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.study import Study
from hardware.errors import MeterError
from hardware.profile_files import KEPT, load_profile


def with_kept_profile(study: Study, out: Path) -> Study:
    """The study with the copy of its energy profile in the run's folder, from which the report shows its constants.

    Args:
        study: The study; unchanged when its profile is one of this program's.
        out: The run's folder.

    Raises:
        ConfigurationError: The run was begun with another content of the file.
        EnvironmentFaultError: It cannot be copied.
    """
    spec = study.devices.energy_profile
    if not spec.endswith(".toml"):
        return study
    try:
        profile, _ = load_profile(spec)
    except MeterError as error:
        raise ConfigurationError(f"devices.energy_profile: {error}") from error
    source, kept = Path(spec), out / KEPT / Path(spec).name
    files = [source, *([source.parent / profile.radio] if profile.radio.endswith(".toml") else [])]
    try:
        kept.parent.mkdir(exist_ok=True)
        for file in files:
            _keep(file, kept.parent / file.relative_to(source.parent))
    except OSError as error:
        raise EnvironmentFaultError(f"{spec} cannot be copied to {kept.parent}: {error.strerror}") from error
    devices = msgspec.structs.replace(study.devices, energy_profile=str(kept))
    return msgspec.structs.replace(study, devices=devices)


def _keep(file: Path, kept: Path) -> None:
    content = file.read_bytes()
    if kept.exists() and kept.read_bytes() != content:
        raise ConfigurationError(
            f"{file}: has changed since this run was begun, which keeps it as {kept}: put it back, or choose another "
            "--out"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)

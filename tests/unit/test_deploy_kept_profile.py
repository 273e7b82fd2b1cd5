"""A run keeps the energy profile that it was priced with."""

from __future__ import annotations

import msgspec
import pytest

from contract.errors import ConfigurationError
from deploy.kept_profile import with_kept_profile
from deploy.study import STUDIES, load_study
from hardware.energy_model import EnergyModel
from hardware.profile_files import ROOM

STUDY = load_study(STUDIES / "demo.toml")


def test_a_profile_and_its_radio_are_copied_once_and_may_not_change(tmp_path):
    own, out = tmp_path / "mine.toml", tmp_path / "run"
    out.mkdir()
    own.write_text('name="mine"\ntitle="t"\nradio="mesh.toml"\ninherits="pi5"\n', encoding="utf-8")
    (tmp_path / "mesh.toml").write_bytes((ROOM / "wifi-pi1.toml").read_bytes())
    devices = msgspec.structs.replace(STUDY.devices, energy_profile=str(own))
    study = msgspec.structs.replace(STUDY, devices=devices)
    kept = with_kept_profile(study, out).devices.energy_profile
    assert kept == str(out / "profiles" / "mine.toml")
    assert with_kept_profile(study, out).devices.energy_profile == kept
    assert EnergyModel.load(kept).radio_name == "wifi-pi1"
    own.write_text(own.read_text(encoding="utf-8").replace("pi5", "pi4"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="has changed since this run was begun"):
        with_kept_profile(study, out)


def test_profiles_of_this_program_are_not_copied(tmp_path):
    assert with_kept_profile(STUDY, tmp_path) == STUDY
    assert not list(tmp_path.iterdir())

"""Profiles of the user's own: by path, by class, with a radio beside them, and what is refused."""

from __future__ import annotations

import pytest

from hardware.energy_model import EnergyModel, profiles
from hardware.errors import MeterError
from hardware.profile import OPERATIONS
from hardware.profile_files import BOARDS, ROOM

COUNTS = {"macs": 10, "acs": 0, "membrane_updates": 0, "backward_macs": 0, "memory_bytes": 0}
CONSTANT = '[[constants]]\nname="one"\nvalue=2.0\nunit="nJ"\nnode="x"\nsource="y"\n'
OWN = (
    'name="mine"\ntitle="My board"\nradio="wifi-pi1"\n'
    + CONSTANT
    + "[operations]\n"
    + "".join(f"{op}={{one=1}}\n" for op in OPERATIONS)
)


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_board_is_added_by_a_file(tmp_path):
    model = EnergyModel.load(write(tmp_path, OWN))
    reading = model.compute(**COUNTS, duration_s=1.0)
    assert reading.energy_j == pytest.approx(2e-8)
    assert (reading.source, model.title, model.radio_name) == ("model:mine", "My board", "wifi-pi1")


def test_a_board_may_stand_on_the_figures_of_a_class_and_says_so(tmp_path):
    text = 'name="mine"\ntitle="B"\nno_radio="by wire"\ninherits="horowitz-45nm"\n[notes]\ncase="red"\n'
    model, base = EnergyModel.load(write(tmp_path, text)), EnergyModel.load("horowitz-45nm")
    assert model.prices_j == base.prices_j
    assert "of the class horowitz-45nm" in model.notes["class figures"]
    assert "none was taken on this board" in model.notes["class figures"]
    assert model.notes["case"] == "red"
    assert model.notes["horowitz-45nm: memory_level"] == base.notes["memory_level"]
    sent = model.radio(10, 1.0)
    assert (sent.provenance, sent.reason) == ("unavailable", "no radio model: by wire")


@pytest.mark.parametrize("name", ["pi-zero-2w", "jetson-orin-nano"])
def test_boards_without_figures_of_their_own_say_so(name):
    model = EnergyModel.load(name)
    assert model.prices_j == EnergyModel.load("cortex-a").prices_j
    assert "cortex-a" in model.notes["class figures"]
    assert model.notes["own_figures"].startswith("absent: ")


def test_a_radio_may_lie_beside_the_profile(tmp_path):
    radio = (ROOM / "wifi-pi1.toml").read_text(encoding="utf-8").replace("0.064", "0.5").replace('"wifi-pi1"', '"mesh"')
    write(tmp_path, radio, "mesh.toml")
    model = EnergyModel.load(write(tmp_path, OWN.replace("wifi-pi1", "mesh.toml")))
    reading = model.radio(125_000, 1.0)
    assert reading.energy_j == pytest.approx(0.5 + 0.004813)
    assert reading.source == "model:mesh"


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (OWN.replace('"mine"', '"other"'), "mine.toml", "calls itself 'other': name it like its file"),
        (OWN.replace('"mine"', '"pi5"'), "pi5.toml", "is a profile of this program"),
        (OWN.replace("wifi-pi1", "wifi-pi9"), "mine.toml", "no radio model is called 'wifi-pi9'. Known: wifi-pi1"),
        (OWN.replace("wifi-pi1", "mesh.toml"), "mine.toml", "radio model .*mesh.toml' cannot be read"),
        (OWN.replace('radio="wifi-pi1"\n', ""), "mine.toml", "set one, a radio or why there is none"),
        (OWN.replace('radio="wifi-pi1"', 'radio="wifi-pi1"\nno_radio="x"'), "mine.toml", "set one"),
        (OWN.replace('title="My', 'inherits="pi5"\ntitle="My'), "mine.toml", "choose one"),
        ('name="mine"\ntitle="t"\nradio="wifi-pi1"\ninherits="pi6"\n', "mine.toml", "did you mean 'pi"),
        ('name="mine"\ntitle="t"\nradio="wifi-pi1"\ninherits="pi-zero-2w"\n', "mine.toml", "which inherits 'cortex-a'"),
        (OWN.replace("value=2.0", "value=-2.0"), "mine.toml", "must be finite and above 0"),
        (OWN.replace("mac={one=1}\n", "", 1), "mine.toml", "expected each of"),
        (OWN + '[absent]\nmac=" "\n', "mine.toml", "needs a reason"),
        ("not toml", "mine.toml", "mine.toml"),
    ],
)
def test_a_file_that_does_not_follow_the_format_is_refused(tmp_path, text, name, words):
    with pytest.raises(MeterError, match=words):
        EnergyModel.load(write(tmp_path, text, name))


def test_a_file_that_is_not_there_names_the_known_profiles(tmp_path):
    with pytest.raises(
        MeterError, match=r"cannot be read .*give the path of a TOML file, or one of the known: cortex-a"
    ):
        EnergyModel.load(str(tmp_path / "mine.toml"))


def test_every_board_names_its_radio_or_why_there_is_none():
    assert profiles() == tuple(sorted(path.stem for path in BOARDS.iterdir()))
    for name in profiles():
        model = EnergyModel.load(name)
        assert bool(model.radio_name) != bool(model.no_radio)

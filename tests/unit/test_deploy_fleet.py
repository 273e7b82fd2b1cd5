"""Boards of an emulated fleet: profiles, groups, and the study's checks of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from contract.errors import ConfigurationError
from contract.link_settings import LinkSettings, TlsSettings
from deploy import fleet
from deploy.board import BoardProfile, LinkProfile, boards, load_board
from deploy.fleet import HERE, DeviceGroup, boards_of, shaped_links
from deploy.shaped_links import conditions
from deploy.study import load_study
from edge_client.settings import ClientSettings
from hardware.energy_model import EnergyModel


def test_boards_ship() -> None:
    assert {"pi-zero-2w", "pi4", "pi5", "jetson-orin-nano"} <= set(boards())


@pytest.mark.parametrize("name", boards())
def test_a_profile_is_whole_and_says_where_its_numbers_come_from(name: str) -> None:
    board = load_board(name)
    assert board.name == name
    assert board.cpu_share is not None
    assert "chosen" in board.cpu_source
    assert board.memory_source
    assert board.link is not None
    assert "chosen" in board.link.source
    EnergyModel.load(board.energy_profile)


def test_groups_are_dealt_in_order_and_change_their_profile() -> None:
    groups = (
        DeviceGroup(count=2, board="pi4"),
        DeviceGroup(count=1, board="pi4", cpu_share=0.05, rate_kbit_s=100.0),
        DeviceGroup(count=1, latency_ms=200.0),
    )
    found = boards_of(groups, 5, "horowitz-45nm")
    pi4 = load_board("pi4")
    assert [b.name for b in found] == ["pi4", "pi4", "pi4", HERE, HERE]
    assert found[0] == pi4
    assert (found[2].cpu_share, found[2].memory_mb) == (0.05, pi4.memory_mb)
    assert found[2].link is not None
    assert pi4.link is not None
    assert (found[2].link.rate_kbit_s, found[2].link.latency_ms) == (100.0, pi4.link.latency_ms)
    assert found[3].link == LinkProfile(latency_ms=200.0)
    assert (found[4].link, found[4].cpu_share, found[4].energy_profile) == (None, None, "horowitz-45nm")


@pytest.mark.parametrize(
    ("group", "emulated"),
    [
        (DeviceGroup(count=1), False),
        (DeviceGroup(count=1, board="pi4"), True),
        (DeviceGroup(count=1, cpu_share=0.5), True),
        (DeviceGroup(count=1, memory_mb=100.0), True),
        (DeviceGroup(count=1, latency_ms=5.0), True),
    ],
)
def test_whoever_is_limited_stands_in_for_a_board_and_measures_nothing(group: DeviceGroup, *, emulated: bool) -> None:
    assert fleet._stands_in(group.profile("horowitz-45nm")) is emulated


def test_each_kind_of_link_has_one_port(tmp_path: Path) -> None:
    slow, far = LinkProfile(rate_kbit_s=100.0), LinkProfile(latency_ms=200.0)
    kinds = [BoardProfile(name="b", title="b", link=link) for link in (slow, far, slow, None)]
    found = shaped_links(kinds, LinkSettings(port=1999))
    assert found is not None
    assert [shaped.link for shaped in found.links] == [slow, far]
    assert len({shaped.port for shaped in found.links}) == 2
    assert found.upstream_port == 1999
    assert shaped_links(kinds[3:], LinkSettings()) is None


def test_behind_a_shaped_link_the_broker_is_still_held_to_its_name() -> None:
    tls = TlsSettings(ca=Path("a"), certificate=Path("b"), key=Path("c"))
    settings = ClientSettings(run="r", node="n", directory=Path(), link=LinkSettings(host="broker.lab", tls=tls))
    board = BoardProfile(name="b", title="b", link=LinkProfile(latency_ms=5.0))
    placed = fleet._placed(settings, board, {board.link: 4321}, "").link
    assert (placed.host, placed.port, placed.tls.server_name) == ("127.0.0.1", 4321, "broker.lab")
    tunnelled = replace(settings, link=replace(settings.link, tls=replace(tls, server_name="far.lab")))
    assert fleet._placed(tunnelled, board, {board.link: 4321}, "").link.tls.server_name == "far.lab"


def test_a_link_in_the_proxys_units() -> None:
    shaped = conditions(LinkProfile(rate_kbit_s=100.0, latency_ms=200.0))
    assert (shaped.up.bytes_s, shaped.up.latency_s) == (12_500.0, 0.2)
    assert shaped.up == shaped.down


def test_the_calculation_of_a_transmission() -> None:
    assert LinkProfile(rate_kbit_s=100.0, latency_ms=200.0).transmit_s(12_500) == pytest.approx(1.4)


STUDY = 'name = "s"\nclients = 4\n[[schedule]]\nrounds = 1\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[devices.group]]\ncount = 1\nboard = "pi-4"', "did you mean 'pi4'"),
        ("[[devices.group]]\ncount = 5", "5 devices in groups, the run has clients = 4"),
        ('[[devices.group]]\ncount = 1\nboard = "nowhere.toml"', "nowhere.toml"),
        ('[[devices.group]]\ncount = 1\nenergy_profile = "abc"', "abc"),
        ('[devices]\nper_process = 2\nmeter = "rapl"', "devices.meter = 'rapl' with per_process = 2"),
        ("[devices.churn]\ncrash = 0.6\nsleep = 0.6", "together at most 1"),
        ("[[devices.group]]\ncount = 1\ncpu = 0.5", "cpu_share"),
        ("[[devices.group]]\ncount = 1\ncpu_share = 0.0", "cpu_share"),
    ],
)
def test_what_cannot_be_is_said_with_its_value(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f"{STUDY}{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_study(path)
    assert said in str(caught.value)


def test_a_board_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('name = "mine"\ntitle = "My board"\ncpu_share = 0.3\ncpu_source = "measured by me"\n')
    path = tmp_path / "study.toml"
    path.write_text(f'{STUDY}[[devices.group]]\ncount = 4\nboard = "{own}"\n')
    assert load_study(path).devices.group[0].profile("horowitz-45nm").cpu_share == 0.3

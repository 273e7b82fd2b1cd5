"""RAPL against synthetic powercap trees: exact arithmetic, and no 0 J whatever is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.energy import EnergyReading
from hardware.meters import rapl
from hardware.meters.rapl import RaplMeter

RANGE_UJ = 262_143_328_850  # as on an Intel desktop


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Tree:
    """A powercap tree under `root` that a test can move, damage and take away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = root / rapl.POWERCAP

    def domain(self, folder: str, name: str, energy_uj: int = 1_000_000, range_uj: int = RANGE_UJ) -> Path:
        path = self.base / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        return path

    def count(self, folder: str, energy_uj: int) -> None:
        (self.base / folder / "energy_uj").write_text(f"{energy_uj}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def unavailable(reading: EnergyReading) -> str:
    assert reading.provenance == "unavailable"
    assert reading.energy_j is None
    assert reading.reason
    return reading.reason


def test_one_package(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 5_000_000)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 25_000_000)
    clock.now_s += 2.0
    reading = meter.read()
    assert reading.energy_j == pytest.approx(20.0, rel=1e-12)
    assert reading.duration_s == pytest.approx(2.0)
    assert (reading.provenance, reading.scope, reading.source) == ("measured", "package", "rapl:package-0")
    assert reading.resolution_j == pytest.approx(6.1e-5, rel=0.01)
    assert reading.samples == 2


def test_windows_join_without_gap_or_overlap(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    joules = []
    for count in (3_000_000, 4_000_000, 9_000_000):
        tree.count("intel-rapl:0", count)
        clock.now_s += 1.0
        joules.append(meter.read().energy_j)
    assert joules == pytest.approx([3.0, 1.0, 5.0], rel=1e-12)


def test_only_packages_are_summed(tree: Tree, clock: Clock) -> None:
    """Sub-domains, the platform domain and the MMIO twin count the same joules again, or the memory's."""
    folders = {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl-mmio:0": "package-0",
    }
    for folder, name in folders.items():
        tree.domain(folder, name, 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    for power, folder in enumerate(folders):
        tree.count(folder, 10**power * 1_000_000)
    clock.now_s += 1000.0 / 10
    reading = meter.read()
    assert reading.energy_j == pytest.approx(1 + 10)
    assert reading.source == "rapl:package-0+package-1"
    assert reading.samples == 4


UNITS = {"Intel": 61_035, "AMD": 15_258}
"""Energy unit in 1e-9 J as drivers/powercap/intel_rapl_common.c holds it: 1e9 · 2^-14 and 2^-16, cut to integers."""


def shown_uj(raw: int, unit: int) -> int:
    """What the kernel writes for a value of the 32-bit register (``rapl_unit_xlate``)."""
    return raw * unit // 1000


def test_the_ranges_of_real_machines() -> None:
    """262143328850 and 65532610987 are what Intel and AMD machines show."""
    assert {shown_uj(2**32 - 1, unit) for unit in UNITS.values()} == {RANGE_UJ, 65_532_610_987}


def test_wrap_around_is_exact(tree: Tree, clock: Clock) -> None:
    """From two units before the largest value to four units after 0 are seven units: the step to 0 is one as well."""
    tree.domain("intel-rapl:0", "package-0", shown_uj(2**32 - 3, UNITS["Intel"]))
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", shown_uj(4, UNITS["Intel"]))
    clock.now_s += 1.0
    assert meter.read().energy_j == pytest.approx(7 * 61.035e-6, abs=1e-6)


@given(
    unit=st.sampled_from(sorted(UNITS.values())),
    before=st.integers(0, 2**32 - 1),
    advance=st.integers(1, 900_000_000),
    duration_s=st.just(60.0),
)
def test_wrap_around_property(unit: int, before: int, advance: int, duration_s: float) -> None:
    """Whatever the register's position, its advance comes back to the microjoule that the file rounds off."""
    domain = rapl._Domain("package-0", Path(), shown_uj(2**32 - 1, unit))
    first, second = shown_uj(before, unit), shown_uj((before + advance) % 2**32, unit)
    assert domain.advance(first, second, duration_s) == pytest.approx(advance * unit / 1000, abs=1.5)


def test_an_amd_machine(tree: Tree, clock: Clock) -> None:
    """Zen has the files of intel_rapl: one package and its sub-domain core."""
    tree.domain("intel-rapl:0", "package-0", 1_000_000, 65_532_610_987)
    tree.domain("intel-rapl:0:0", "core", 1_000_000, 65_532_610_987)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 11_000_000)
    tree.count("intel-rapl:0:0", 5_000_000)
    clock.now_s += 1.0
    reading = meter.read()
    assert (reading.energy_j, reading.source) == (pytest.approx(10.0), "rapl:package-0")


def test_a_reset_counter_is_not_taken_for_a_wrap(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 50_000_000)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 1_000)
    clock.now_s += 1.0
    assert "reset" in unavailable(meter.read())


def test_a_counter_above_its_own_range(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 1000, range_uj=60_000_000)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 60_000_001)
    clock.now_s += 0.05
    assert "above its own max_energy_range_uj" in unavailable(meter.read())
    assert not rapl.find(tree.root).available


def test_a_counter_that_stands_still_is_no_zero(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 0)
    tree.domain("intel-rapl:1", "package-1", 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 1_000_000)
    clock.now_s += 1.0
    assert "package-1 did not move" in unavailable(meter.read())


def test_a_window_that_may_have_wrapped_twice(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 1_000_000)
    clock.now_s += 263.0
    assert "at least every 262 s" in unavailable(meter.read())


def test_microjoules_are_not_millijoules(tree: Tree, clock: Clock) -> None:
    """Unit trap: 15 W for 10 s is 150 J, not 150 mJ or 150 kJ."""
    tree.domain("intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    tree.count("intel-rapl:0", 150_000_000)
    clock.now_s += 10.0
    assert meter.read().energy_j == pytest.approx(150.0)


def deny(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Root may read everything, so the denial is injected where the file is opened."""
    genuine = Path.read_text

    def read_text(path: Path, *args: str, **kwargs: str) -> str:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return genuine(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)


def test_permission_denied_says_the_remedy(tree: Tree, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.domain("intel-rapl:0", "package-0")
    deny(monkeypatch, "energy_uj")
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    clock.now_s += 1.0
    reason = unavailable(meter.read())
    assert "no permission" in reason
    assert "chmod" in reason
    finding = rapl.find(tree.root)
    assert not finding.available
    assert "chmod" in finding.detail


def test_vanishing_and_returning_in_mid_run(tree: Tree, clock: Clock) -> None:
    """A file that is gone makes both windows that touch the gap unavailable; then figures come back."""
    tree.domain("intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    (tree.base / "intel-rapl:0" / "energy_uj").unlink()
    clock.now_s += 1.0
    assert "cannot read" in unavailable(meter.read())
    tree.count("intel-rapl:0", 7_000_000)
    clock.now_s += 1.0
    assert "cannot read" in unavailable(meter.read())
    tree.count("intel-rapl:0", 9_000_000)
    clock.now_s += 1.0
    assert meter.read().energy_j == pytest.approx(2.0)


def test_one_of_two_packages_vanishes(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 0)
    tree.domain("intel-rapl:1", "package-1", 0)
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    shutil.rmtree(tree.base / "intel-rapl:1")
    tree.count("intel-rapl:0", 1_000_000)
    clock.now_s += 1.0
    assert "intel-rapl:1" in unavailable(meter.read())


def test_before_start_and_after_close(tree: Tree, clock: Clock) -> None:
    tree.domain("intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tree.root, clock=clock)
    assert "before start" in unavailable(meter.read())
    meter.start()
    tree.count("intel-rapl:0", 1_000_000)
    clock.now_s += 1.0
    meter.close()
    assert "closed" in unavailable(meter.read())


def test_no_tree_at_all(tmp_path: Path) -> None:
    meter = RaplMeter(tmp_path)
    meter.start()
    assert "x86" in unavailable(meter.read())
    assert not rapl.find(tmp_path).available


def test_found(tree: Tree) -> None:
    tree.domain("intel-rapl:0", "package-0")
    finding = rapl.find(tree.root)
    assert finding.available
    assert finding.detail == "processor package-0"


def test_a_tree_without_packages_names_what_it_saw(tree: Tree) -> None:
    tree.domain("intel-rapl:0", "psys")
    assert "psys" in rapl.find(tree.root).detail


DAMAGE = st.one_of(
    st.none(),  # the file is missing
    st.binary(max_size=40),
    st.integers(-(2**70), 2**70).map(lambda value: str(value).encode()),
    st.sampled_from([b"", b"\n", b"nan", b"inf", b"1e6", b"0x10", b"-1", b"1 2", b"1.5", "١٢٣".encode(), b"\x00" * 8]),
)


def damage(path: Path, content: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["energy_uj", "max_energy_range_uj", "name"]),
    at_start=DAMAGE,
    at_read=DAMAGE,
    good=st.tuples(st.integers(0, 10**9), st.integers(1, 10**8)),
)
def test_damaged_trees_never_give_zero(
    tmp_path: Path, name: str, at_start: bytes | None, at_read: bytes | None, good: tuple[int, int]
) -> None:
    """Whatever stands in one file, nothing is raised and a figure is above 0 J and below the largest power."""
    before, advance = good
    tree, clock = Tree(tmp_path), Clock()
    folder = tree.domain("intel-rapl:0", "package-0", before)
    damage(folder / name, at_start)
    meter = RaplMeter(tmp_path, clock=clock)
    meter.start()
    tree.domain("intel-rapl:0", "package-0", before + advance)
    damage(folder / name, at_read)
    clock.now_s += 1.0
    reading = meter.read()
    if reading.energy_j is None:
        assert reading.reason
    else:
        assert 0 < reading.energy_j <= rapl.LARGEST_POWER_W * (1.0 + rapl.UPDATE_SLACK_S)
    rapl.find(tmp_path)


def test_the_uncertainty_is_a_step_of_the_counter_and_what_flows_in_one_update(tree: Tree, clock: Clock) -> None:
    """10 W for 2 s on each of two packages: two steps of 61 µJ, and 20 W for a millisecond."""
    for package in ("intel-rapl:0", "intel-rapl:1"):
        tree.domain(package, package.replace("intel-rapl:", "package-"))
    meter = RaplMeter(tree.root, clock=clock)
    meter.start()
    for package in ("intel-rapl:0", "intel-rapl:1"):
        tree.count(package, 1_000_000 + 20_000_000)
    clock.now_s += 2.0
    reading = meter.read()
    assert reading.energy_j == pytest.approx(40.0)
    assert reading.uncertainty_j == pytest.approx(2 * 2.0**-14 + 0.020)

"""`spikeleak meter --calibrate`: a synthetic board through a replayed trace, a run's ledger, and errors."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.messages import EnergyReport, Operations, PhaseEnergy
from deploy import calibration, calibration_work, cli
from deploy.calibration import calibrate, recorded
from deploy.calibration_work import COUNTED, SHAPES, Bench, Shape, Work
from deploy.study import STUDIES, check_study, load_study
from hardware.calibration import fit
from hardware.energy import EnergyReading
from hardware.energy_model import EnergyModel
from hardware.meters.none import NoMeter
from hardware.meters.replay import ReplayMeter
from hardware.profile import OPERATIONS
from server import journal
from server.ledger import FILE_NAME, Ledger

JOULES = np.array([2.0e-9, 0.4e-9, 5e-9, 1.1e-9, 0.2e-9])
BASELINE_W, WINDOW_S = 2.0, 1.0
CONSOLE = Console(file=io.StringIO())


class Board:
    """A clock that the work itself moves, and the power that its operations take."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.power: list[tuple[float, float, float]] = []
        self.noise = np.random.default_rng(3)

    def clock(self) -> float:
        return self.now_s

    def rest(self, seconds: float) -> None:
        self.spend(seconds, np.zeros(5))

    def spend(self, seconds: float, counts: np.ndarray) -> None:
        power_w = BASELINE_W + float(counts @ JOULES) / seconds
        self.power.append((self.now_s, self.now_s + seconds, power_w))
        self.now_s += seconds

    def work(self, shape: Shape) -> Work:
        board = self

        class Counted(Work):
            def step(self):
                if hasattr(self, "counts"):  # a step takes some 10 to 40 ms on this board
                    seconds = 0.01 + 1e-9 * sum(self.counts[:2])
                    board.spend(seconds, np.array(self.counts, float))
                    return ()
                return super().step()

        return Counted(shape)

    def trace(self, path: Path) -> None:
        """What a meter recorded from the first clock on, with noise of each stretch of work."""
        rows = ["# scope: board", "time_s,power_w"]
        for begin_s, end_s, power_w in self.power:
            noisy = power_w + self.noise.normal(0, 0.15)
            rows += [f"{begin_s!r},{noisy!r}", f"{end_s!r},{noisy!r}"]
        path.write_text("\n".join(rows), encoding="utf-8")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A recorded trace of a board at its work."""
    board, path = Board(), tmp_path_factory.mktemp("trace") / "board.csv"
    list(Bench(NoMeter("recording"), clock=board.clock, rest=board.rest, work=board.work).windows(WINDOW_S))
    board.trace(path)
    return path


@pytest.fixture
def replayed(trace, monkeypatch):
    """The command's own path, but that the work moves the clock: as fast as the recorded board was."""
    board = Board()
    plain = calibration_work.Bench

    def bench(meter):
        return plain(meter, clock=board.clock, rest=board.rest, work=board.work)

    monkeypatch.setattr(calibration, "Bench", bench)
    monkeypatch.setattr(calibration, "open_meter", lambda _source: ReplayMeter(trace, clock=board.clock))
    return f"replay:{trace}"


def test_a_synthetic_board_is_recovered_within_its_intervals_and_its_profile_is_usable(replayed, tmp_path):
    path = tmp_path / "bench-board.toml"
    profile = calibrate(CONSOLE, source=replayed, path=path, window_s=WINDOW_S)
    assert profile.fit is not None
    for constant in profile.constants:
        true_pj = 1e12 * JOULES[OPERATIONS.index(constant.name.removeprefix("fitted_"))]
        interval = profile.fit.intervals[constant.name]
        assert interval.low <= true_pj <= interval.high, constant
        assert interval.high - interval.low < 2 * true_pj, "so wide that it says nothing"
    assert [c.name.removeprefix("fitted_") for c in profile.constants] == list(OPERATIONS)
    assert profile.fit.baseline_w == pytest.approx(BASELINE_W, rel=0.1)
    assert (profile.fit.windows, profile.fit.meter) == (24, "replay, board")
    assert 0 < profile.fit.residual_w < 0.2
    assert profile.fit.r2 > 0.95

    model = EnergyModel.load(str(path))
    assert model.fit == profile.fit
    counts = {"macs": 10**6, "acs": 10**6, "membrane_updates": 10**4, "backward_macs": 10**6, "memory_bytes": 10**6}
    expected = float(np.array(list(counts.values())) @ JOULES)
    reading = model.compute(**counts, duration_s=1.0)
    assert reading.energy_j == pytest.approx(expected, rel=0.15)
    assert (reading.provenance, reading.source) == ("modelled", "model:bench-board")
    assert "fit is of arithmetic" in model.radio(10, 1.0).reason
    study = load_study(STUDIES / "demo.toml")
    devices = msgspec.structs.replace(study.devices, energy_profile=str(path))
    check_study(msgspec.structs.replace(study, devices=devices), origin="x")


@pytest.fixture
def few_shapes(monkeypatch):
    kept = dict(list(SHAPES.items())[1:5])
    monkeypatch.setattr(calibration_work, "SHAPES", kept)
    return kept


def test_real_work_is_measured_in_windows_of_its_own_length(tmp_path, few_shapes):
    """Real clock, real engine, a steady meter: counts are whole steps, windows as long as asked for.

    Four shapes are too few for six unknowns, and no profile comes of it.
    """
    flat = tmp_path / "flat.csv"
    flat.write_text("time_s,power_w\n0,3\n600,3\n", encoding="utf-8")
    bench = Bench(ReplayMeter(flat))
    found = list(bench.windows(0.05, repeats=1))
    assert [name for name, _ in found] == ["rest", *few_shapes]
    assert not bench.faults
    for name, window in found:
        assert window.energy_j == pytest.approx(3 * window.duration_s)
        assert window.duration_s >= 0.05
        assert any(window.counts) == (name != "rest")
    with pytest.raises(EnvironmentFaultError, match=r"cannot be told apart.*other batch sizes"):
        calibrate(CONSOLE, source=f"replay:{flat}", path=tmp_path / "b.toml", window_s=0.2)
    assert not (tmp_path / "b.toml").exists()


def test_windows_that_the_meter_cannot_tell_are_no_windows(tmp_path, few_shapes):
    with pytest.raises(EnvironmentFaultError, match="no window was measured: no meter was asked for"):
        calibrate(CONSOLE, source="none", path=tmp_path / "b.toml", window_s=0.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "pi5.toml"}, "not called like a profile"),
        ({"path": "board.json"}, "ends in .toml"),
        ({"path": "nowhere/b.toml"}, "make it first"),
        ({"window_s": 0.01}, "needs at least 0.2"),
        ({"source": "rappl"}, "did you mean 'rapl'"),
        ({"ledger": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_anything_is_done(tmp_path, changes, words):
    given = {"source": "none", "path": "b.toml", "window_s": 1.0, **changes}
    with pytest.raises(ConfigurationError, match=words):
        calibrate(CONSOLE, **given | {"path": tmp_path / given["path"]})


def test_a_ledger_without_calibrate_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="only with --calibrate"):
        cli.meter(source="none", seconds=0, calibrate=None, ledger=tmp_path)


def write_measured(directory: Path, source: str = "ina:board") -> None:
    """A ledger of measured updates of the synthetic board, in every shape, with idle time before each."""
    rng = np.random.default_rng(4)
    with Ledger(directory / FILE_NAME) as ledger:
        for i in range(28):
            counts = rng.integers(1, 10**9, 5)
            dynamic_j = float(counts @ JOULES)
            trained_s, idle_s = 1.0 + dynamic_j / 5, 2.0

            def reading(energy_j: float, duration_s: float, name: str = source) -> EnergyReading:
                noisy = energy_j + float(rng.normal(0, 0.02)) * duration_s
                return EnergyReading(
                    energy_j=noisy, duration_s=duration_s, source=name, scope="board", provenance="measured"
                )

            phases = (
                PhaseEnergy(phase="idle", readings=(reading(BASELINE_W * idle_s, idle_s),)),
                PhaseEnergy(phase="train", readings=(reading(BASELINE_W * trained_s + dynamic_j, trained_s),)),
            )
            report = EnergyReport(
                uid=f"{i:032x}",
                update_uid=f"{i + 1000:032x}",
                node="n",
                round=i,
                operations=Operations(**dict(zip(COUNTED, map(int, counts), strict=True))),
                payload_bytes=1,
                phases=phases,
            )
            journal.write_report(ledger, report, (), nbytes=10)


def test_a_measured_run_is_fitted_from_its_ledger(tmp_path):
    write_measured(tmp_path)
    windows, meter = recorded(tmp_path)
    assert (len(windows), meter) == (56, "ina:board, board")
    found = fit(windows)
    for op, true_j in zip(OPERATIONS, JOULES, strict=True):
        assert abs(found.joules[op] - true_j) <= 1.5 * found.half_width_j[op]
    profile = calibrate(CONSOLE, source="none", path=tmp_path / "own.toml", window_s=1, ledger=tmp_path)
    assert profile.fit is not None
    assert profile.fit.meter == "ina:board, board"


def test_a_run_of_two_meters_or_none_is_refused(tmp_path):
    with Ledger(tmp_path / FILE_NAME):
        pass
    with pytest.raises(ConfigurationError, match="of 0 meters"):
        recorded(tmp_path)

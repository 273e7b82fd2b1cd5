"""The energy section: ± of readings, activity, constants, and the twin beside published analyses."""

from __future__ import annotations

import functools
import math
import re

import msgspec
import numpy as np
import pytest

from contract.datasets import load
from contract.encodings import encode
from contract.messages import Operations
from contract.models.layout import initial_parameters
from contract.models.operations import OperationCounter
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec
from edge_client.engine import Engine, open_engine
from hardware.energy import EnergyReading
from hardware.energy_model import EnergyModel
from hardware.profile import Fit, Interval
from hardware.profile_files import KEPT
from server.export import training_graph
from server.report.constants import used_constants
from server.report.data import EnergyRow, Family, OperationsRow, ReportData, RoundRow, UpdateRow
from server.report.energy import totals
from server.report.energy_comparison import PUBLISHED, Mean, comparison_lines, mean_of
from server.report.energy_skipping import DIRECT, Pair, Traffic, cheaper_batches, skipping_notes, traffic
from server.report.energy_tables import activity_lines, phase_lines
from server.report.page import render
from server.report.quantities import energy_between
from tests.unit.test_server_report_page import Page

CLASSES = 10
DIGITS = load("mnist5k")
X, Y = DIGITS.x, DIGITS.y
SHAPE = X.shape[1:]


@functools.cache
def trained(task: TaskSpec) -> tuple[Engine, dict[str, np.ndarray]]:
    """An engine and 784-256-10 after 30 steps of SGD on batches of 16 real digits."""
    engine = open_engine("onnx", task, SHAPE, CLASSES, graphs={"training": training_graph(task, SHAPE, CLASSES)})
    params, rng = initial_parameters(task, SHAPE, CLASSES), np.random.default_rng(0)
    for _ in range(30):
        chosen = rng.choice(len(X), 16, replace=False)
        found = engine.gradients(params, encode(task.encoding, X[chosen], rng), Y[chosen])
        params = {name: value - np.float32(0.2) * found.gradients[name] for name, value in params.items()}
    return engine, params


@functools.cache
def counted(task: TaskSpec, batch: int) -> Operations:
    """Operations of one step of the trained network on real digits."""
    engine, params = trained(task)
    counter = OperationCounter(task, SHAPE, CLASSES)
    frames = encode(task.encoding, X[:: len(X) // batch][:batch], np.random.default_rng(1))
    counter.give(frames)
    engine.emitted()
    engine.gradients(params, frames, np.zeros(batch, np.int64))
    counter.add(*engine.emitted())
    return counter.total()


def family(task: TaskSpec, batch: int, title: str) -> Family:
    plan = RoundPlan(algorithm="fedsgd", batch_size=batch)
    place = {"node": "a", "round": 1, "kind": "train"}
    return Family(
        title=title,
        status="finished",
        task=task,
        rounds=(RoundRow(round=1, plan=plan),),
        updates=(UpdateRow(uid="u", samples=batch, payload_bytes=1, **place),),
        operations=(OperationsRow(operations=counted(task, batch), **place),),
    )


def run_of(batch: int, encoding: str = "rate", steps: int = 10, bits: int | None = 8) -> ReportData:
    spiking = TaskSpec(encoding=EncodingSpec(kind=encoding, steps=steps), model=ModelSpec(weight_bits=bits))
    twin = TaskSpec(encoding=EncodingSpec(kind="direct", steps=steps), model=ModelSpec(family="ann", weight_bits=bits))
    return ReportData(
        name="r",
        snn=family(spiking, batch, "SNN"),
        twin=family(twin, batch, "ANN twin"),
        prices={"horowitz-45nm": EnergyModel.load().prices_j},
    )


def ratios(data: ReportData) -> tuple[float, float]:
    """Training at equal T · samples: every product computed, and zero spikes skipped."""
    (line,) = comparison_lines(data)
    dense, skipping = (float(text.split(" ")[0]) for text in (line.dense_per_step, line.per_step))
    return dense, skipping


@pytest.mark.parametrize("batch", [1, 8, 16, 32])
@pytest.mark.parametrize("steps", [5, 10, 25])
@pytest.mark.parametrize("bits", [8, None])
def test_bptt_of_the_fc_network_costs_one_to_two_times_its_twin_at_equal_steps_and_samples(batch, steps, bits):
    """With every product computed; and skipping zero spikes never costs more."""
    dense, skipping = ratios(run_of(batch, steps=steps, bits=bits))
    assert 1.0 <= dense <= 2.0
    assert skipping < dense


def test_skipping_zeros_in_large_batches_and_direct_coding_lie_below():
    """Where saved multiplications outweigh the traffic at every step, and where one layer is evaluated once."""
    assert ratios(run_of(1))[1] > 1.0
    assert 0.5 < ratios(run_of(32))[1] < 1.0
    assert max(ratios(run_of(4, encoding="direct"))) < 0.5


def several(encoding: str, batches: tuple[int, ...]) -> ReportData:
    """A round for each batch size, one after the other."""
    runs = [run_of(batch, encoding=encoding) for batch in batches]

    def joined(families: list[Family]) -> Family:
        def renumbered(name: str) -> tuple:
            return tuple(
                msgspec.structs.replace(row, round=i) for i, one in enumerate(families) for row in getattr(one, name)
            )

        fields = {name: renumbered(name) for name in ("rounds", "updates", "operations")}
        return msgspec.structs.replace(families[0], **fields)

    return msgspec.structs.replace(
        runs[0], snn=joined([run.snn for run in runs]), twin=joined([run.twin for run in runs if run.twin])
    )


def test_the_page_tells_in_which_batches_skipping_zeros_costs_less_than_the_twin():
    """Traffic told by two sizes of batches foretells a third's; the size it names is the first that is below 1."""
    data, seen = several("rate", (1, 32)), run_of(8)
    assert data.twin is not None
    assert seen.twin is not None
    for family, third in ((data.snn, seen.snn), (data.twin, seen.twin)):
        moved = traffic(family)
        assert moved is not None
        assert moved.batch_bytes + 8 * moved.sample_bytes == third.operations[0].operations.memory_bytes
    (note,) = skipping_notes(data)
    (least,) = (int(text) for text in re.findall(r"below 1 in batches of (\d+) samples or more", note))
    snn, ann = mean_of(data.snn, "train"), mean_of(data.twin, "train")
    assert snn is not None
    assert ann is not None

    def at(batch: int) -> float:
        own_j, twin_j = (
            sum(
                count * EnergyModel.load().prices_j[op]
                for op, count in (mean.counts | {"memory_byte": of.sample_bytes + of.batch_bytes / batch}).items()
            )
            for mean, of in ((snn, traffic(data.snn)), (ann, traffic(data.twin)))
        )
        return own_j / 10 / twin_j

    assert 1 < least < 32
    assert at(least) < 1 <= at(least - 1)
    assert " ".join(note.split()) in Page(render(data)).words


def test_what_skipping_does_is_told_without_guessing():
    (one_size,) = skipping_notes(run_of(8))
    assert "does not tell" in one_size
    *_, direct = skipping_notes(several("direct", (1, 8)))
    assert direct == DIRECT
    without_bytes = {"p": {name: 1e-12 * (name != "memory_byte") for name in EnergyModel.load().prices_j}}
    (note,) = skipping_notes(msgspec.structs.replace(run_of(8), prices=without_bytes))
    assert "below 1 in batches of any size" in note
    assert skipping_notes(msgspec.structs.replace(run_of(8), twin=None)) == ()
    lacking = {"p": {"mac": 1e-12}}
    assert skipping_notes(msgspec.structs.replace(run_of(8), prices=lacking)) == ()


@pytest.mark.parametrize(
    ("own", "other", "sizes"),
    [
        ((100.0, 0.0), (0.0, 10.0), (11, math.inf)),  # at 10 samples a batch both cost the same
        ((100.0, 10.0), (0.0, 10.0), None),
        ((0.0, 0.0), (10.0, 0.0), (1, math.inf)),
        ((0.0, 10.0), (100.0, 0.0), (1, 9)),
        ((0.0, 10.0), (5.0, 0.0), None),
    ],
)
def test_sizes_of_batches_by_hand(own, other, sizes):
    def mean(bytes_: tuple[float, float]) -> tuple[Mean, Traffic]:
        counts = {"memory_byte": 0.0}
        moved = Traffic(batch_bytes=bytes_[0], sample_bytes=bytes_[1])
        return Mean(kind="train", samples=1, counts=counts, dense=counts, forward=counts, rate=None), moved

    (snn, first), (ann, second) = mean(own), mean(other)
    pair = Pair(snn=snn, ann=ann, steps=1, moved=(first, second))
    assert cheaper_batches(pair, {"memory_byte": 1.0}) == sizes


def test_the_comparison_by_hand():
    task = TaskSpec(encoding=EncodingSpec(kind="rate", steps=5))
    ann = msgspec.structs.replace(task, model=ModelSpec(family="ann"))

    def of(own: TaskSpec, operations: Operations) -> Family:
        base = Family(title="x", status="finished", task=own)
        place = {"node": "a", "round": 1, "kind": "train"}
        return msgspec.structs.replace(
            base,
            updates=(UpdateRow(uid="u", samples=2, payload_bytes=1, **place),),
            operations=(OperationsRow(operations=operations, **place),),
        )

    counts = {"acs": 200, "dense_macs": 500, "membrane_updates": 30, "backward_macs": 400}
    snn = Operations(active=(10, 10), sites=(100, 100), **counts)
    twin = Operations(macs=100, dense_macs=100, backward_macs=100)
    prices = {"mac": 4e-12, "ac": 1e-12, "membrane_update": 4e-12, "backward_mac": 4e-12, "memory_byte": 1e-12}
    data = ReportData(name="r", snn=of(task, snn), twin=of(ann, twin), prices={"p": prices})
    (line,) = comparison_lines(data)
    assert line.per_sample.startswith("2.40 ×")  # (200 + 120 + 1600) / 800
    assert line.per_step.startswith("0.480 ×")
    assert line.dense_per_sample.startswith("4.65 ×")  # (2000 + 120 + 1600) / 800
    assert line.dense_per_step.startswith("0.930 ×")
    assert line.inference.startswith("0.800 ×")  # (200 + 120) / 400
    assert line.rate.startswith("10.0")
    assert line.break_even.startswith("14.0")  # 280 of 400 pJ are left for what takes 200 at 10 %
    assert comparison_lines(msgspec.structs.replace(data, twin=None)) == ()
    lacking = {"p": {name: price for name, price in prices.items() if name != "backward_mac"}}
    assert comparison_lines(msgspec.structs.replace(data, prices=lacking)) == ()


def test_the_page_states_where_published_analyses_lie():
    words = Page(render(run_of(2))).words
    for line in PUBLISHED:
        assert line.figure in words
    for text in ("1.27 ×", "2204.05422", "5.7 % at T = 5", "2409.08290", "output of hidden layer 1", "break-even"):
        assert text in words


def test_activity_is_that_of_all_updates():
    data = run_of(4)
    first, second = activity_lines(data)[:2]
    operations = data.snn.operations[0].operations
    assert (first.layer, second.layer) == ("input frames", "output of hidden layer 1")
    share = operations.active[1] / operations.sites[1]
    assert second.share.startswith(f"{100 * share:.1f}")
    assert second.sparsity.startswith(f"{100 * (1 - share):.1f}")


def row(uncertainty_j: float | None, phase: str = "train") -> EnergyRow:
    reading = EnergyReading(
        energy_j=0.5, duration_s=1.0, source="m", scope="board", provenance="measured", uncertainty_j=uncertainty_j
    )
    return EnergyRow(node="a", round=1, kind="train", phase=phase, reading=reading)


def test_uncertainties_are_added_up_and_one_unknown_makes_the_sum_unknown():
    (known,) = totals([row(0.02), row(0.03)])
    assert (known.energy_j, known.uncertainty_j) == (1.0, pytest.approx(0.05))
    (unknown,) = totals([row(0.02), row(None)])
    assert unknown.uncertainty_j is None


def test_uncertainty_is_shown_in_the_tables():
    data = ReportData(name="r", snn=Family(title="SNN", status="finished", energy=(row(0.02), row(0.03))))
    (line,) = phase_lines(data)
    assert line.value == "1.00 ± 0.050\u202fJ"
    assert "1.00 ± 0.050 J" in Page(render(data)).words
    assert energy_between(2e-3, None) == "2.00\u202fmJ"
    assert energy_between(2e-3, 5e-5) == "2.00 ± 0.050\u202fmJ"


def test_constants_of_a_users_profile_come_from_the_runs_folder(tmp_path):
    (tmp_path / KEPT).mkdir()
    text = 'name="mine"\ntitle="Mine"\nno_radio="wired"\ninherits="loihi1"\n'
    (tmp_path / KEPT / "mine.toml").write_text(text, encoding="utf-8")
    found = used_constants({"model:mine", "model", "rapl:package-0"}, tmp_path)
    rows = {line.name: line for line in found.rows}
    assert rows["synaptic_operation"].value == 23.6
    absent = rows["multiply-accumulate, backward"]
    assert (absent.value, absent.source.startswith("absent: no surrogate-gradient")) == (None, True)
    assert rows["radio"].source == "absent: wired"
    assert found.prices == {"mine": EnergyModel.load("loihi1").prices_j}
    assert not found.problems


def test_figures_whose_profile_is_not_at_hand_are_told(tmp_path):
    found = used_constants({"model:elsewhere", "model:horowitz-45nm", "model:wifi-pi1"}, tmp_path)
    (problem,) = found.problems
    assert "'elsewhere'" in problem
    assert "profiles/" in problem
    assert all(line.source and (line.value is None or (line.unit and line.node)) for line in found.rows)


def test_a_fitted_constant_has_its_interval(tmp_path):
    model = EnergyModel.load("loihi1")
    fit = Fit(
        date="2026-01-01",
        meter="ina2xx, board",
        windows=24,
        baseline_w=2.0,
        residual_w=0.1,
        r2=0.97,
        intervals={"synaptic_operation": Interval(low=20.0, high=27.2)},
    )
    from server.report.constants import _rows

    model.fit = fit
    rows = {line.name: line for line in _rows(model)}
    assert rows["synaptic_operation"].between == "20.0 to 27.2"
    assert rows["baseline, not charged"].source.startswith(
        "fit of 2026-01-01 to 24 windows of ina2xx, board: residual 0.1 W"
    )

"""The energy section: ± of readings, activity, constants, and the twin beside published analyses."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from contract.datasets import load
from contract.encodings import encode
from contract.messages import Operations
from contract.models.layout import initial_parameters
from contract.models.operations import OperationCounter
from contract.task import EncodingSpec, ModelSpec, RoundPlan, TaskSpec
from edge_client.engine import open_engine
from hardware.energy import EnergyReading
from hardware.energy_model import EnergyModel
from hardware.profile import Fit, Interval
from hardware.profile_files import KEPT
from server.export import training_graph
from server.report.constants import used_constants
from server.report.data import EnergyRow, Family, OperationsRow, ReportData, RoundRow, UpdateRow
from server.report.energy import totals
from server.report.energy_comparison import PUBLISHED, comparison_lines
from server.report.energy_tables import activity_lines, phase_lines
from server.report.page import render
from server.report.quantities import energy_between
from tests.unit.test_server_report_page import Page

CLASSES = 10
X = load("mnist5k").x


def counted(task: TaskSpec, batch: int) -> Operations:
    """Operations of one step on real digits, with weights large enough to make the hidden layer spike."""
    shape = X.shape[1:]
    counter = OperationCounter(task, shape, CLASSES)
    engine = open_engine("onnx", task, shape, CLASSES, graphs={"training": training_graph(task, shape, CLASSES)})
    params = {name: 2 * value for name, value in initial_parameters(task, shape, CLASSES).items()}
    frames = encode(task.encoding, X[:: len(X) // batch][:batch], np.random.default_rng(1))
    counter.give(frames)
    counter.add(batch, engine.gradients(params, frames, np.zeros(batch, np.int64)).emitted)
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


def ratio(data: ReportData) -> float:
    (line,) = comparison_lines(data)
    return float(line.per_step.split(" ")[0])


@pytest.mark.parametrize(("batch", "steps", "bits"), [(1, 10, 8), (4, 10, None), (8, 25, 8), (8, 5, None)])
def test_bptt_of_the_fc_network_costs_one_to_two_times_its_twin_at_equal_steps_and_samples(batch, steps, bits):
    assert 1.0 <= ratio(run_of(batch, steps=steps, bits=bits)) <= 2.0


def test_large_batches_and_direct_coding_lie_below():
    """Where saved multiplications outweigh the traffic at every step, and where one layer is evaluated once."""
    assert 0.5 < ratio(run_of(32)) < 1.0
    assert ratio(run_of(4, encoding="direct")) < 0.5


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

    snn = Operations(acs=200, membrane_updates=30, backward_macs=400, active=(10, 10), sites=(100, 100))
    twin = Operations(macs=100, backward_macs=100)
    prices = {"mac": 4e-12, "ac": 1e-12, "membrane_update": 4e-12, "backward_mac": 4e-12, "memory_byte": 1e-12}
    data = ReportData(name="r", snn=of(task, snn), twin=of(ann, twin), prices={"p": prices})
    (line,) = comparison_lines(data)
    assert line.per_sample.startswith("2.40 ×")  # (200 + 120 + 1600) / 800
    assert line.per_step.startswith("0.480 ×")
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

from __future__ import annotations

from fractions import Fraction
from typing import get_args, get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.configuration import decode_toml
from contract.errors import ConfigurationError
from contract.task import RoundPlan
from deploy.study import Study, load_study, to_toml
from server.aggregation import (
    AGGREGATORS,
    ALGORITHMS,
    OPTIMISERS,
    Aggregation,
    Contribution,
    FedBuff,
    Optimisation,
    Recipe,
    descend,
    weighted_mean,
)
from server.aggregation.citations import CITATIONS
from server.aggregation.fedadam import FedAdam
from server.aggregation.mean import Mean
from server.aggregation.median import CoordinateMedian
from server.aggregation.multi_krum import MultiKrum, squared_distances
from server.aggregation.norm_gate import NormGate
from server.aggregation.trimmed_mean import TrimmedMean
from server.settings import ScheduleEntry, ServerSettings
from tests.unit.server_world import World, settings

SIZES = (1, 2, 3, 5, 8, 11)
SHAPES = {"a": (3, 4), "b": (5,)}


def contribution(uid: str, weight: float, *values: float, factor: float = 1.0) -> Contribution:
    return Contribution(uid=uid, weight=weight, tensors={"w": np.array(values, dtype=np.float32)}, factor=factor)


def drawn(count: int, seed: int = 1, scale: float = 1.0) -> list[Contribution]:
    """Honest updates: noise about one direction, of devices with unlike numbers of samples."""
    rng = np.random.default_rng(seed)
    centre = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return [
        Contribution(
            uid=f"{i:03d}",
            weight=float(rng.integers(1, 40)),
            tensors={
                n: (scale * (c + 0.2 * rng.standard_normal(c.shape))).astype(np.float32) for n, c in centre.items()
            },
        )
        for i in range(count)
    ]


def flat(value) -> np.ndarray:
    return np.concatenate([np.ravel(value[name]) for name in SHAPES])


def shuffled(updates: list[Contribution], seed: int) -> list[Contribution]:
    """The same updates under each other's names."""
    order = np.random.default_rng(seed).permutation(len(updates))
    names = [update.uid for update in updates]
    return [msgspec.structs.replace(updates[i], uid=name) for i, name in zip(order, names, strict=True)]


def _rounding(update: Contribution) -> Contribution:
    """The update times a number that makes sums of float64 depend on their order."""
    return msgspec.structs.replace(update, factor=1 / 3 + float(update.uid) * 1e-3)


# --- properties of all ------------------------------------------------------------------------------------------------


def test_the_families_are_what_settings_can_hold():
    assert set(ALGORITHMS) == set(get_args(get_type_hints(RoundPlan)["algorithm"]))
    assert all(name == algorithm.name for name, algorithm in ALGORITHMS.items())
    assert set(AGGREGATORS.values()) == set(get_args(Aggregation))
    assert set(OPTIMISERS.values()) == {Optimisation}
    for name, kind in {**AGGREGATORS, **OPTIMISERS}.items():
        assert kind.__struct_config__.tag == name


@pytest.mark.parametrize("kind", [*AGGREGATORS.values(), *OPTIMISERS.values(), FedBuff], ids=lambda k: k.__name__)
def test_each_has_its_citation(kind):
    assert CITATIONS[kind.citation].entry.startswith("@")
    assert "arXiv" in (kind.__doc__ or "")


def test_what_waits_comes_from_has_its_citation():
    assert FedBuff.citation_of_waits in CITATIONS
    plain, waiting = (Recipe(fedbuff=FedBuff(waits=waits)).cited for waits in (False, True))
    assert set(waiting) - set(plain) == {FedBuff.citation_of_waits}
    assert plain == (Mean.citation, FedBuff.citation)
    assert Recipe().cited == (Mean.citation,)


def test_an_entry_cites_what_it_uses_and_nothing_else():
    assert ScheduleEntry().cited == (Mean.citation,)
    noisy = ScheduleEntry(proximal=0.1, clip_norm=1.0, noise_multiplier=0.5)
    assert noisy.cited == (Mean.citation, "li2020federated", "abadi2016deep", "dwork2014algorithmic")
    assert ScheduleEntry(kind="audit").cited == (), "it makes no model"


@pytest.mark.parametrize("name", AGGREGATORS)
def test_updates_that_are_all_alike_give_that_update(name):
    alike = [msgspec.structs.replace(drawn(1)[0], uid=str(i)) for i in range(7)]
    value = AGGREGATORS[name]().aggregate(alike).value
    np.testing.assert_allclose(flat(value), flat(alike[0].tensors), rtol=1e-15)
    assert {tensor.dtype for tensor in value.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_names_of_updates_change_what_is_declared_and_no_more(name):
    rule, updates = AGGREGATORS[name](), [_rounding(update) for update in drawn(11)]
    values = [flat(rule.aggregate(shuffled(updates, seed)).value) for seed in range(12)]
    same = all(value.tobytes() == values[0].tobytes() for value in values)
    assert same == rule.relabelling
    for value in values:
        np.testing.assert_allclose(value, values[0], rtol=1e-12)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("name", AGGREGATORS)
def test_as_many_arbitrary_updates_as_declared_leave_it_near_the_honest_ones(name, count):
    rule, honest = AGGREGATORS[name](), drawn(count)
    bad = rule.tolerated(count)
    reach = max(np.linalg.norm(flat(update.tensors)) for update in honest)
    for seed, size in enumerate((1.0, 1e3, 1e6, 1e12)):
        rng = np.random.default_rng(seed)
        aim = rng.standard_normal(len(flat(honest[0].tensors)))
        evil = [_pointing(update, size * aim * (1 + 0.01 * seed)) for update in honest[:bad]]
        value = flat(rule.aggregate([*evil, *honest[bad:]]).value)
        assert np.linalg.norm(value) <= 3 * reach, f"{bad} of {count} updates of size {size:g}"


@pytest.mark.parametrize("name", AGGREGATORS)
def test_one_more_than_declared_moves_it_as_far_as_they_like(name):
    """So that the bound is no smaller than what is declared: a rule that tolerates everything would not pass."""
    rule, count = AGGREGATORS[name](), 11
    honest = drawn(count)
    bad = rule.tolerated(count) + 1
    aim = np.ones(len(flat(honest[0].tensors)))
    evil = [_pointing(update, 1e9 * aim) for update in honest[:bad]]
    value = flat(rule.aggregate([*evil, *honest[bad:]]).value)
    moved = np.linalg.norm(value) > 1e6
    assert moved or (name == "multi-krum" and _moves_with(rule, honest, aim)), np.linalg.norm(value)


def _moves_with(rule, honest: list[Contribution], aim: np.ndarray) -> bool:
    """Krum's breakdown takes colluders that are more than half: its f is a bound for which there is a proof."""
    evil = [_pointing(update, 1e9 * aim) for update in honest[: len(honest) // 2 + 3]]
    return bool(np.linalg.norm(flat(rule.aggregate([*evil, *honest[len(evil) :]]).value)) > 1e6)


def _pointing(update: Contribution, values: np.ndarray) -> Contribution:
    parts, start = {}, 0
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        parts[name], start = values[start : start + size].reshape(shape).astype(np.float32), start + size
    return msgspec.structs.replace(update, tensors=parts)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_only_ordered_updates_are_taken(name):
    rule = AGGREGATORS[name]()
    for uids in ("21", "11"):
        with pytest.raises(ValueError, match="strictly ascending"):
            rule.aggregate([contribution(uid, 1, 1.0) for uid in uids])
    with pytest.raises(ValueError, match="nothing"):
        rule.aggregate([])


@pytest.mark.parametrize("name", AGGREGATORS)
def test_stale_updates_enter_by_their_factor(name):
    updates = [contribution(str(i), 2, 4.0, factor=0.5) for i in range(7)]
    assert AGGREGATORS[name]().aggregate(updates).value["w"].tolist() == [2.0]


# --- each by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_steps_by_hand(name):
    updates = [contribution("1", 1, 1.0, 2.0), contribution("2", 3, 5.0, -2.0)]
    plan = RoundPlan(algorithm=name, learning_rate=0.5)
    factor = {"fedavg": 1.0, "fedsgd": 0.5}[name]
    assert ALGORITHMS[name].step(weighted_mean(updates), plan)["w"].tolist() == [4.0 * factor, -1.0 * factor]


def test_fedavg_of_differences_is_the_mean_of_the_models():
    before = {"w": np.array([1.0, 2.0], dtype=np.float32)}
    after = [np.array([0.5, 3.0]), np.array([1.5, 0.0])]
    updates = [contribution(str(i), w, *(before["w"] - a)) for i, (a, w) in enumerate(zip(after, (1, 3), strict=True))]
    plan = RoundPlan()
    new, velocity = descend(before, None, ALGORITHMS["fedavg"].step(weighted_mean(updates), plan), plan)
    assert new["w"].tolist() == [1.25, 0.75]
    assert new["w"].dtype == np.float32
    assert velocity is None


def test_server_momentum_by_hand():
    plan = RoundPlan(server_momentum=0.5, server_learning_rate=2.0)
    new, velocity = descend({"w": np.array([10.0], dtype=np.float32)}, None, {"w": np.array([1.0])}, plan)
    assert (new["w"][0], velocity["w"][0]) == (8.0, 1.0)
    new, velocity = descend(new, velocity, {"w": np.array([3.0])}, plan)
    assert (new["w"][0], velocity["w"][0]) == (1.0, 3.5)
    plain = RoundPlan()
    new, velocity = descend(new, velocity, {"w": np.array([1.0])}, plain)
    assert (new["w"][0], velocity["w"][0]) == (0.0, 1.0), "a plan without momentum begins anew"


def test_fedadam_by_hand():
    adam, plan = FedAdam(beta1=0.5, beta2=0.5, tau=1.0), RoundPlan(server_learning_rate=0.5)
    start = {"w": np.array([1.0], dtype=np.float32)}
    new, moments = adam.descend(start, None, {"w": np.array([2.0])}, plan)
    first, second = 0.5 * 0 + 0.5 * 2, 0.5 * 1 + 0.5 * 4
    assert (moments["first:w"][0], moments["second:w"][0]) == (first, second)
    assert new["w"][0] == np.float32(1 - 0.5 * first / (second**0.5 + 1))
    again, moments = adam.descend(new, moments, {"w": np.array([0.0])}, plan)
    assert (moments["first:w"][0], moments["second:w"][0]) == (first / 2, second / 2)
    assert again["w"][0] == np.float32(new["w"].astype(float)[0] - 0.5 * (first / 2) / ((second / 2) ** 0.5 + 1))
    _, anew = adam.descend(start, {"w": np.array([7.0])}, {"w": np.array([2.0])}, plan)
    assert anew["first:w"][0] == first, "another optimiser's velocity is none of its moments"


def test_the_median_and_the_trimmed_mean_by_hand():
    updates = [contribution(str(i), 1 + 100 * (i == 4), v, -v) for i, v in enumerate((3.0, 1.0, 2.0, 5.0, 99.0))]
    assert CoordinateMedian().aggregate(updates).value["w"].tolist() == [3.0, -3.0]
    assert CoordinateMedian().aggregate(updates[:4]).value["w"].tolist() == [2.5, -2.5]
    trimmed = TrimmedMean(share=0.2).aggregate(updates)
    assert np.round(trimmed.value["w"], 12).tolist() == [np.round(10 / 3, 12), np.round(-10 / 3, 12)]
    assert set(trimmed.weights.values()) == {1.0}, "numbers of samples are not read"
    assert TrimmedMean(share=0.1).aggregate(updates).value["w"][0] == 22.0, "a share below one update trims none"


def test_multi_krum_by_hand():
    updates = [contribution(str(i), 1, v) for i, v in enumerate((0.0, 1.0, 1.5, 2.0, 100.0))]
    assert squared_distances(updates)[0].tolist() == [0.0, 1.0, 2.25, 4.0, 1e4]
    scores = MultiKrum(byzantine=1)._scores(squared_distances(updates))
    assert scores.tolist() == [1 + 2.25, 0.25 + 1, 0.25 + 0.25, 0.25 + 1, 98.0**2 + 98.5**2], "of the two nearest"
    found = MultiKrum(byzantine=1).aggregate(updates)
    assert found.weights == {"0": 0.0, "1": 1.0, "2": 1.0, "3": 0.0, "4": 0.0}, "n - f - 2 = 2 are kept"
    assert found.value["w"].tolist() == [1.25]
    few = MultiKrum(byzantine=1).aggregate(updates[1:])
    assert few.value["w"].tolist() == [1.75]
    assert "needs 5 updates, there were 4" in few.note


@pytest.mark.parametrize("rule", [NormGate(), NormGate(norm=1e6)])
def test_the_gate_is_the_plain_mean_bit_by_bit_where_nothing_stands_out(rule):
    updates = drawn(9)
    expected = Mean().aggregate(updates)
    found = rule.aggregate(updates)
    assert flat(found.value).tobytes() == flat(expected.value).tobytes()
    assert found.weights == expected.weights


def test_the_gate_by_hand():
    updates = [contribution("1", 1, 3.0, 4.0), contribution("2", 1, 0.0, 5.0), contribution("3", 2, 30.0, 40.0)]
    found = NormGate(multiple=2.0).aggregate(updates)
    np.testing.assert_allclose(found.value["w"], [(3 + 2 * 6) / 4, (4 + 5 + 2 * 8) / 4])
    np.testing.assert_allclose(list(found.weights.values()), [1.0, 1.0, 0.4])
    fixed = NormGate(norm=1.0).aggregate(updates)
    np.testing.assert_allclose(fixed.value["w"], [(0.6 + 0 + 2 * 0.6) / 4, (0.8 + 1 + 2 * 0.8) / 4])


def test_staleness_by_hand():
    buff = FedBuff()
    assert [buff.factor(tau) for tau in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert FedBuff(exponent=0.0).factor(99) == 1.0
    assert Recipe().factor(5) == 1.0
    stale = [contribution("1", 1, 4.0), contribution("2", 3, 4.0, factor=buff.factor(3))]
    assert weighted_mean(stale)["w"].tolist() == [(4 + 3 * 2) / 4], "stale updates shorten the step"


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    weights=st.lists(st.integers(1, 1000), min_size=20, max_size=20),
)
def test_the_mean_agrees_with_exact_arithmetic(values, weights):
    updates = [contribution(f"{i:02d}", w, v) for i, (v, w) in enumerate(zip(values, weights, strict=False))]
    exact = sum(Fraction(v) * w for v, w in zip(values, weights, strict=False)) / sum(weights[: len(values)])
    scale = max(1e-30, *(abs(v) for v in values))
    assert abs(float(weighted_mean(updates)["w"][0] - float(exact))) <= 1e-13 * scale


# --- in a run ---------------------------------------------------------------------------------------------------------


def played(folder, entry: ScheduleEntry, order: str, *, killed: bool = False) -> list[str]:
    world = World(settings(folder, entry, clients=len(order)))
    for node in sorted(order):
        world.node(node)
    for round_ in (1, 2):
        for count, node in enumerate(order):
            if killed and count == 2:
                world.restart()
                for name in sorted(order):
                    world.node(name)
            world.update(node, round_)
    hashes = world.column("SELECT sha256 FROM models ORDER BY version")
    assert world.column("SELECT COUNT(*) FROM aggregated GROUP BY uid") == [1] * (2 * len(order))
    world.ledger.close()
    return hashes


RULES = {**{name: {"aggregator": name} for name in AGGREGATORS}, "adam": {"server_optimiser": "adam"}}


@pytest.mark.parametrize("rule", RULES)
def test_the_model_is_the_same_in_any_order_of_arrival_and_through_a_restart(rule, tmp_path):
    rate = 0.01 if rule == "adam" else 1.0
    entry = ScheduleEntry(rounds=2, server_learning_rate=rate, **RULES[rule])
    one = played(tmp_path / "1", entry, "abcdef")
    assert len(set(one)) == 3
    assert one == played(tmp_path / "2", entry, "fcadeb")
    assert one == played(tmp_path / "3", entry, "bdface", killed=True)


def test_too_few_updates_for_krum_are_noted_and_go_on(tmp_path):
    world = World(settings(tmp_path, ScheduleEntry(aggregator="multi-krum"), clients=5))
    for node in "abcde":
        world.node(node)
    world.update("a")
    world.wait(31.0)
    (text,) = world.column("SELECT text FROM events WHERE text LIKE '%multi-krum%'")
    assert "needs 5 updates, there were 1" in text
    assert world.model.version == 1
    world.ledger.close()


def test_a_study_names_its_rules_and_reads_back(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        'name = "s"\nclients = 7\n[[schedule]]\naggregator = "median"\n[[schedule]]\n'
        'aggregator = {kind = "trimmed-mean", share = 0.1}\nserver_optimiser = "adam"\nserver_learning_rate = 0.01\n'
        "[[schedule]]\nfedbuff = {buffer = 2}\n"
    )
    study = load_study(path)
    recipes = [entry.recipe for entry in study.schedule]
    assert recipes[0] == Recipe(aggregator=CoordinateMedian())
    assert recipes[1] == Recipe(aggregator=TrimmedMean(share=0.1), optimiser=FedAdam())
    assert recipes[2] == Recipe(fedbuff=FedBuff(buffer=2))
    assert [entry.plan.mode for entry in study.schedule] == ["synchronous", "synchronous", "asynchronous"]
    path.write_text(to_toml(study))
    assert decode_toml(path, Study) == study


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('aggregator = "medin"', "did you mean 'median'"),
        ('aggregator = {kind = "trimmed-mean", share = 0.5}', r"share' = 0.5: expected `float` < 0.5"),
        ('aggregator = {kind = "multi-krum", byzantine = 3}', "needs 9 updates"),
        ('aggregator = "multi-krum"\nmin_updates = 4', "needs 5 updates"),
        ('aggregator = "multi-krum"\nfedbuff = {buffer = 3}', "needs 5 updates"),
        ('server_optimiser = "adam"', "0.01 to begin with"),
        ('server_optimiser = "adam"\nserver_learning_rate = 0.1\nserver_momentum = 0.5', "server_momentum = 0.5"),
        ('kind = "audit"\nfedbuff = {buffer = 3}', "makes a model; leave it out"),
        ("min_updates = 2\nfedbuff = {buffer = 3}", "leave min_updates out"),
        ("fedbuff = {bufer = 3}", "did you mean 'buffer'"),
        ("fedbuff = {buffer = 8, waits = true}", "buffer = 8: a version takes one update of each device.*clients = 7"),
    ],
)
def test_a_mistake_in_a_rule_is_one_clear_message(tmp_path, text, part):
    path = tmp_path / "study.toml"
    path.write_text(f'name = "s"\nclients = 7\n[[schedule]]\n{text}\n')
    with pytest.raises(ConfigurationError, match=part):
        load_study(path)


def test_a_server_knows_how_many_devices_a_rule_needs(tmp_path):
    def served(entry: ScheduleEntry) -> ServerSettings:
        return ServerSettings(run="r", directory=tmp_path, clients=4, schedule=(entry,))

    with pytest.raises(ValueError, match="needs 5 updates"):
        served(ScheduleEntry(aggregator="multi-krum"))
    with pytest.raises(ValueError, match="takes one update of each device, and the run has clients = 4"):
        served(ScheduleEntry(fedbuff=FedBuff(buffer=5, waits=True)))
    assert served(ScheduleEntry(fedbuff=FedBuff(buffer=4, waits=True))).schedule[0].recipe.fedbuff.waits
    assert served(ScheduleEntry(fedbuff=FedBuff(buffer=5))).schedule[0].recipe.fedbuff.buffer == 5

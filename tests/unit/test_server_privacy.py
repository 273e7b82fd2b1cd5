"""Local privacy: ε is dp-accounting's, over all of a device's updates, and absent where one of them is bare."""

from __future__ import annotations

import dp_accounting
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from contract.task import RoundPlan
from server.privacy import guarantee
from server.settings import ScheduleEntry, ServerSettings
from server.summary import summarise
from tests.unit.server_world import World, settings

DELTA = 1e-5


def played(run: ServerSettings) -> World:
    world = World(run)
    nodes = ("a", "b", "c")
    for node in nodes:
        world.node(node)
    for round_ in range(1, run.rounds + 1):
        for node in nodes:
            world.update(node, round_, loss=None)
    return world


@pytest.mark.parametrize("multipliers", [[2.0], [4.0] * 30, [1.0, 8.0, 8.0, 3.0]])
def test_epsilon_is_that_of_dp_accounting(multipliers):
    found = guarantee(multipliers, DELTA).epsilon
    exact, renyi = PLDAccountant(), RdpAccountant()
    for z in multipliers:
        # An update exchanged for another moves by 2 C: noise of z C has half the multiplier.
        exact.compose(GaussianDpEvent(z / 2))
        renyi.compose(GaussianDpEvent(z / 2))
    assert found == pytest.approx(exact.get_epsilon(DELTA), rel=1e-3)
    assert found <= renyi.get_epsilon(DELTA) <= 1.3 * found


def test_one_update_is_the_analytic_gaussian_mechanism():
    assert guarantee([2.0], DELTA).epsilon == pytest.approx(dp_accounting.get_epsilon_gaussian(1.0, DELTA))


def test_a_bare_or_unreadable_update_leaves_no_guarantee():
    assert guarantee([2.0, 0.0], DELTA).epsilon is None
    assert guarantee([2.0, 0.0], DELTA).reason == "1 of its 2 updates carried no noise"
    assert guarantee([2.0, None], DELTA).epsilon is None
    assert guarantee([], DELTA).epsilon == 0.0


def test_every_row_and_the_summary_hold_it(tmp_path):
    noisy = ScheduleEntry(algorithm="fedsgd", rounds=3, clip_norm=1.0, noise_multiplier=4.0)
    world = played(settings(tmp_path, noisy))
    rows = world.ledger.rows("SELECT * FROM updates ORDER BY node, round")
    for row in rows:
        assert row["noise"] == 4.0
        assert row["epsilon"] == pytest.approx(guarantee([4.0] * row["round"], DELTA).epsilon)
        assert row["delta"] == DELTA
    said = summarise(tmp_path)["privacy"]
    assert said["epsilon"] == pytest.approx(guarantee([4.0] * 3, DELTA).epsilon)
    assert set(said["by_device"]) == {row["node"] for row in rows}
    assert (said["delta"], said["reason"], said["updates_counted"]) == (DELTA, "", len(rows))


def test_a_run_without_noise_claims_nothing(tmp_path):
    played(settings(tmp_path, ScheduleEntry(algorithm="fedsgd")))
    said = summarise(tmp_path)["privacy"]
    assert (said["epsilon"], said["by_device"], said["reason"]) == (None, {}, "no update carried noise")


def test_the_plan_says_what_noise_needs():
    with pytest.raises(ValueError, match="set clip_norm"):
        RoundPlan(noise_multiplier=1.0)
    assert np.isclose(RoundPlan(clip_norm=2.0, noise_multiplier=1.5).noise_multiplier, 1.5)

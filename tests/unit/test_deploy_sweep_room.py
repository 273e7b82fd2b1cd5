"""What a run asks of a cluster fits the cluster, whatever its nodes, and is whole where there is room."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.broker import BrokerSection
from deploy.study import AttackSection, Study, TwinSection
from deploy.sweep.room import ATTACK_BYTES, RUN_BYTES, attack_jobs, parts
from server.settings import ScheduleEntry

STUDY = Study(name="s", schedule=(ScheduleEntry(kind="audit"),))


def study(**attack: object) -> Study:
    return msgspec.structs.replace(STUDY, attack=AttackSection(**attack))


def test_a_run_has_a_job_for_each_worker_of_each_arm() -> None:
    assert attack_jobs(STUDY) == 1
    assert attack_jobs(study(workers=3)) == 3
    assert attack_jobs(msgspec.structs.replace(study(workers=3), twin=TwinSection())) == 6
    assert attack_jobs(study(attacks=())) == 0


def test_where_a_broker_has_no_door_attackers_stay_with_their_run() -> None:
    away = BrokerSection(kind="external", host="127.0.0.1", port=1883)
    for section in (away, BrokerSection(kind="amqtt")):
        assert attack_jobs(msgspec.structs.replace(STUDY, broker=section)) == 0


def test_with_room_a_run_and_each_job_have_a_cpu_a_job_one_for_each_thread() -> None:
    assert [part.cpus for part in parts(study(workers=2), [4.0])] == [1, 1, 1]
    assert [part.cpus for part in parts(study(workers=2, threads=3), [1.0, 3.0, 3.0])] == [1, 3, 3]
    assert [part.memory_bytes for part in parts(STUDY, [2.0])] == [RUN_BYTES, ATTACK_BYTES]


@pytest.mark.parametrize(
    ("nodes", "cpus"),
    [([1.0], [0.5, 0.5]), ([1.0, 1.0], [1, 1]), ([0.0, 1.0], [0.5, 0.5]), ([4.0], [1, 1]), ([], [1, 1])],
)
def test_a_cluster_too_small_for_one_run_is_shared_among_its_parts(nodes: list[float], cpus: list[float]) -> None:
    assert [part.cpus for part in parts(STUDY, nodes)] == cpus


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=5).filter(any),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_parts_fit_on_the_nodes_and_keep_their_proportions(nodes: list[int], workers: int, threads: int) -> None:
    found = parts(study(workers=workers, threads=threads), [float(cpus) for cpus in nodes])
    left = [float(cpus) for cpus in nodes]
    for part in sorted(found, key=lambda part: -part.cpus):
        assert part.cpus > 0
        place = min((i for i, cpus in enumerate(left) if cpus >= part.cpus - 1e-9), key=left.__getitem__)
        left[place] -= part.cpus
    assert all(part.cpus == pytest.approx(threads * found[0].cpus, abs=2e-3) for part in found[1:])

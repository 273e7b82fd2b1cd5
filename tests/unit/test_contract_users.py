"""Whole people: dealt to devices, and held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.datasets import DATASETS, check_partition, dataset_info, held_out_split, partition, share
from contract.errors import ConfigurationError
from contract.task import PartitionSpec, TaskSpec

BY_USER = PartitionSpec(kind="user", held_out_by="user")
people = st.lists(st.integers(0, 7), min_size=20, max_size=120).map(lambda u: np.array([*u, 0, 1, 2], dtype=np.int64))


@given(users=people, seed=st.integers(0, 50), held_out=st.floats(0.05, 0.9), parts=st.integers(1, 2))
def test_people_are_never_parted(users, seed, held_out, parts):
    y = np.arange(len(users)) % 3
    spec = PartitionSpec(kind="user", held_out_by="user", held_out=held_out)
    task = TaskSpec(seed=seed, partition=spec)
    train, test = held_out_split(task, y, users)
    assert sorted([*train, *test]) == list(range(len(y)))
    assert not set(users[train]) & set(users[test])
    there = len(set(users.tolist()))
    assert 1 <= len(set(users[test].tolist())) <= there - 1
    if parts > len(set(users[train].tolist())):
        return
    shares = [share(task, y, users, part=i, parts=parts) for i in range(parts)]
    assert sorted(np.concatenate(shares).tolist()) == train.tolist()
    owners = [set(users[rows].tolist()) for rows in shares]
    assert all(owners)
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_samples_are_held_out_of_each_class_when_people_are_dealt():
    users, y = np.repeat(np.arange(6), 50), np.tile(np.arange(10), 30)
    task = TaskSpec(partition=PartitionSpec(kind="user"))
    train, test = held_out_split(task, y, users)
    assert np.bincount(y[test]).tolist() == [6] * 10
    dealt = partition(task, y[train], 6, users[train])
    assert sorted(len(set(users[train][part].tolist())) for part in dealt) == [1] * 6


def test_more_devices_than_people_name_the_limit():
    users, y = np.repeat(np.arange(3), 10), np.tile(np.arange(2), 15)
    with pytest.raises(ConfigurationError, match=r"4 devices for the 3 users.*between 1 and 3"):
        partition(TaskSpec(partition=PartitionSpec(kind="user")), y, 4, users)


def test_one_person_cannot_be_held_out():
    with pytest.raises(ConfigurationError, match="at least 2 users"):
        held_out_split(TaskSpec(partition=BY_USER), np.arange(6) % 2, np.zeros(6, dtype=np.int64))


def test_sets_without_people_are_refused():
    with pytest.raises(ConfigurationError, match=r"partition.kind = 'user': 'mnist5k'.*that do: .*fsdd"):
        check_partition(BY_USER, dataset_info("mnist5k"))
    with pytest.raises(ConfigurationError, match="does not say who made its samples"):
        held_out_split(TaskSpec(partition=BY_USER), np.arange(6) % 2)
    for info in DATASETS.values():
        check_partition(BY_USER if info.users else PartitionSpec(), info)

"""Who holds which sample: the server's held-out part, and the devices' shares of the rest. Seeded by the task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from contract.errors import ConfigurationError
from contract.streams import stream
from contract.task import PartitionSpec, TaskSpec

Indices = npt.NDArray[np.int64]
Dealer = Callable[[PartitionSpec, Indices, int, np.random.Generator], list[Indices]]


def held_out_split(task: TaskSpec, y: Indices, users: Indices | None = None) -> tuple[Indices, Indices]:
    """Splits a data set into training and held-out samples, class by class or person by person.

    Args:
        task: Gives `partition.held_out`, `partition.held_out_by` and the seed.
        y: Labels of all samples.
        users: Who made each; read for `held_out_by = "user"`.

    Returns:
        Indices of the training and of the held-out samples, each ascending; of a class with two samples or more
        (of two users or more) both hold at least one.

    Raises:
        ConfigurationError: One of the two would be empty, or users are not known.
    """
    by_user = task.partition.held_out_by == "user"
    rng = stream(task.seed, "held out")
    out: list[Indices] = []
    for members in _groups(task, y, users) if by_user else (np.flatnonzero(y == label) for label in np.unique(y)):
        shuffled = rng.permutation(members)
        wanted = round(task.partition.held_out * len(shuffled))
        out.append(shuffled[: min(max(wanted, 1), len(shuffled) - 1)])
    if by_user:
        out = [np.flatnonzero(np.isin(_known(task, users), out[0]))]
    test = np.sort(np.concatenate(out)) if out else np.zeros(0, dtype=np.int64)
    train = np.setdiff1d(np.arange(len(y), dtype=np.int64), test, assume_unique=True)
    if not (len(train) and len(test)):
        raise ConfigurationError(
            f"partition.held_out = {task.partition.held_out} of {len(y)} samples in {len(np.unique(y))} classes leaves "
            f"{len(train)} to train and {len(test)} to evaluate: "
            + ("there must be at least 2 users" if by_user else "a class needs at least 2 samples")
        )
    return train, test.astype(np.int64)


def _groups(task: TaskSpec, y: Indices, users: Indices | None) -> list[Indices]:
    """The one group of which a share is held out by `user`: the people."""
    return [np.unique(_known(task, users))] if len(y) else []


def _known(task: TaskSpec, users: Indices | None) -> Indices:
    if users is None:
        raise ConfigurationError(
            f"partition by 'user': data set {task.dataset!r} does not say who made its samples; set kind and "
            "held_out_by otherwise"
        )
    return users


def partition(task: TaskSpec, y_train: Indices, parts: int, users: Indices | None = None) -> list[Indices]:
    """Deals the training samples to devices.

    Args:
        task: Gives `partition.kind`, `partition.alpha` and the seed.
        y_train: Labels of the training samples.
        parts: Number of devices.
        users: Who made each training sample; read for `kind = "user"`.

    Returns:
        Per device ascending indices into `y_train`: disjoint, together all, none empty.

    Raises:
        ConfigurationError: More parts than samples (or users), none, or users are not known.
    """
    if not 1 <= parts <= len(y_train):
        raise ConfigurationError(
            f"{parts} devices for {len(y_train)} training samples of {task.dataset!r}: "
            f"between 1 and {len(y_train)} are possible; lower clients or take a larger data set"
        )
    rng = stream(task.seed, "partition", parts)
    if task.partition.kind == "user":
        dealt = _deal_users(task, _known(task, users), parts, rng)
    else:
        dealt = _without_empty(DEALERS[task.partition.kind](task.partition, y_train, parts, rng))
    return [np.sort(part).astype(np.int64) for part in dealt]


def share(task: TaskSpec, y: Indices, users: Indices | None, *, part: int, parts: int) -> Indices:
    """The samples of one device, ascending, as indices into the whole set.

    Raises:
        ConfigurationError: As `held_out_split` and `partition`.
    """
    train, _ = held_out_split(task, y, users)
    of_train = None if users is None else users[train]
    return train[partition(task, y[train], parts, of_train)[part]]


def _deal_users(task: TaskSpec, users: Indices, parts: int, rng: np.random.Generator) -> list[Indices]:
    """Whole people, as many to each device as to any other, give or take one."""
    known = np.unique(users)
    if parts > len(known):
        raise ConfigurationError(
            f"{parts} devices for the {len(known)} users in the training samples of {task.dataset!r} with "
            f"partition.kind = 'user': between 1 and {len(known)} are possible; lower clients"
        )
    return [np.flatnonzero(np.isin(users, some)) for some in np.array_split(rng.permutation(known), parts)]


def _deal_iid(_spec: PartitionSpec, y: Indices, parts: int, rng: np.random.Generator) -> list[Indices]:
    return list(np.array_split(rng.permutation(len(y)), parts))


def _deal_dirichlet(spec: PartitionSpec, y: Indices, parts: int, rng: np.random.Generator) -> list[Indices]:
    """Each class in shares drawn from ``Dir(alpha 1)`` (Hsu et al. 2019, arXiv 1909.06335)."""
    dealt: list[list[Indices]] = [[] for _ in range(parts)]
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        cuts = np.cumsum(rng.dirichlet(np.full(parts, spec.alpha)))[:-1] * len(members)
        for part, share in zip(dealt, np.split(members, np.round(cuts).astype(np.int64)), strict=True):
            part.append(share)
    return [np.concatenate(part) for part in dealt]


def _without_empty(dealt: list[Indices]) -> list[Indices]:
    """Gives each empty part one sample of the largest."""
    for i, part in enumerate(dealt):
        if not len(part):
            largest = max(range(len(dealt)), key=lambda j: len(dealt[j]))
            dealt[i], dealt[largest] = dealt[largest][:1], dealt[largest][1:]
    return dealt


DEALERS: dict[str, Dealer] = {"iid": _deal_iid, "dirichlet": _deal_dirichlet}
CITED: dict[str, tuple[str, ...]] = {"iid": (), "dirichlet": ("hsu2019measuring",), "user": ()}
"""Keys of the works that a kind of partition comes from (`contract.citations`); even parts and whole people: none."""

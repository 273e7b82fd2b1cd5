"""A sweep's file, and the studies that it stands for."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from contract.configuration import decode_tables, read_toml
from contract.errors import ConfigurationError
from deploy.study import Study, study_of, to_toml
from deploy.sweep.settings_path import assign

MOST_POINTS = 10_000


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value of an axis that sets several keys together.

    Attributes:
        label: What it is called in tables and figures.
        set: Value by key, e.g. `{"schedule[*].codec" = "topk", "schedule[*].share" = 0.01}`.
    """

    label: Annotated[str, Meta(min_length=1, max_length=60)]
    set: dict[str, Any] = {}


class Axis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[axes]]`: what varies. One of `values`, `choices`, or `low` with `high`.

    Attributes:
        name: Its name in tables and figures; the key where it is left out.
        key: The key that `values` or a range is for, e.g. `task.encoding.steps` or `schedule[audit].batch_size`.
        values: Its values.
        choices: Labelled values, each of which may set several keys.
        low: Least value of a range, drawn from by `[sample]`.
        high: Greatest value.
        scale: How a range is divided.
        whole: Whether a range gives whole numbers only.
    """

    name: str = ""
    key: str = ""
    values: tuple[Any, ...] = ()
    choices: tuple[Choice, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False

    def __post_init__(self) -> None:
        ranged = self.low is not None or self.high is not None
        if bool(self.values) + bool(self.choices) + ranged != 1:
            raise ValueError("an axis needs exactly one of values, choices, or low with high")
        if bool(self.key) == bool(self.choices):
            raise ValueError("values and a range need key; choices name their keys themselves, in set")
        if self.choices and not self.name:
            raise ValueError("an axis of choices needs a name")
        if ranged and (self.low is None or self.high is None or not self.low < self.high):
            raise ValueError(f"low = {self.low}, high = {self.high}: give both, low below high")
        if ranged and self.scale == "log" and (self.low or 0) <= 0:
            raise ValueError(f"low = {self.low} with scale = 'log': must be above 0")

    @property
    def title(self) -> str:
        """Name, or key."""
        return self.name or self.key

    @property
    def options(self) -> tuple[Choice, ...]:
        """Its discrete values as choices; none of a range."""
        if self.choices:
            return self.choices
        return tuple(Choice(label=_shown(value), set={self.key: value}) for value in self.values)

    def at(self, share: float) -> Choice:
        """The choice at a share of the axis, from 0 up to but not 1."""
        options = self.options
        if options:
            return options[min(int(share * len(options)), len(options) - 1)]
        assert self.low is not None
        assert self.high is not None
        if self.whole:  # each whole number has an equal part, the last one too
            value: float | int = min(int(_between(self.low, self.high + 1, share, self.scale)), int(self.high))
        else:
            value = _between(self.low, self.high, share, self.scale)
        return Choice(label=_shown(value), set={self.key: value})


def _between(low: float, high: float, share: float, scale: str) -> float:
    if scale == "log":
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[sample]`: so many points drawn from the axes in place of the whole grid.

    Attributes:
        kind: `sobol` (scrambled, Owen 1998; evenly spread, best with a power of two) or `random`.
        count: How many points.
        seed: Of the draw.
    """

    kind: Literal["sobol", "random"] = "sobol"
    count: Annotated[int, Meta(ge=1, le=MOST_POINTS)]
    seed: Annotated[int, Meta(ge=0)] = 1


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sweep.

    Attributes:
        name: For folders and the report.
        title: A line over the report.
        base: A study's file, beside this one; `study` then changes it.
        study: The study, or what differs from `base`.
        axes: What varies; all combinations are run unless `sample` says otherwise.
        sample: Points drawn in place of the grid.
        seeds: Each point is run with each; a seed decides split, parameters and the devices' draws.
        target_accuracy: Accuracy to which joules are counted, beside joules a round.
        parallel: Runs at a time at most; the machine's memory, or a cluster's places, may allow fewer. `None`: as many
            as it has cores, or places.
    """

    name: str
    title: str = ""
    base: str | None = None
    study: dict[str, Any] = {}
    axes: tuple[Axis, ...] = ()
    sample: Sample | None = None
    seeds: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(min_length=1)] = (1,)
    target_accuracy: Annotated[float, Meta(gt=0, lt=1)] | None = None
    parallel: Annotated[int, Meta(ge=1, le=256)] | None = None

    def __post_init__(self) -> None:
        titles = [axis.title for axis in self.axes]
        if len(set(titles)) < len(titles):
            raise ValueError(f"axes {titles}: two have the same name; give each a name of its own")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: one is there twice")
        if self.sample is None and any(not axis.options for axis in self.axes):
            raise ValueError("an axis with low and high needs [sample]; or give it values")


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep.

    Attributes:
        name: Of its folder: the hash of its study.
        labels: Label by axis.
        seed: Its seed.
        study: What is run.
    """

    name: str
    labels: dict[str, str]
    seed: int
    study: Study


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep.

    Raises:
        ConfigurationError: Names file, key, value and what is allowed.
    """
    return decode_tables(read_toml(path), Sweep, origin=str(path))


def points(sweep: Sweep, path: Path) -> tuple[Point, ...]:
    """All runs of a sweep, in order: as its axes vary, the last one fastest, then by seed.

    Args:
        sweep: The sweep.
        path: Its file; paths in it are relative to that.

    Raises:
        ConfigurationError: More points than `MOST_POINTS`, or one of them is no valid study.
    """
    tables = _base(sweep, path)
    found: dict[str, Point] = {}
    for choices in _combinations(sweep, path):
        for seed in sweep.seeds:
            point = _point(sweep, path, tables, choices, seed)
            found.setdefault(point.name, point)  # a sample may draw the same point twice
    return tuple(found.values())


def _base(sweep: Sweep, path: Path) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    if sweep.base is not None:
        tables = read_toml(path.parent / sweep.base)
    return _merged(tables, sweep.study)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    found = dict(under)
    for key, value in over.items():
        below = found.get(key)
        found[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return found


def _combinations(sweep: Sweep, path: Path) -> list[tuple[Choice, ...]]:
    if sweep.sample is None:
        count = math.prod(len(axis.options) for axis in sweep.axes) * len(sweep.seeds)
        if count > MOST_POINTS:
            raise ConfigurationError(f"{path}: {count} runs, at most {MOST_POINTS}; use [sample] or fewer values")
        return list(itertools.product(*(axis.options for axis in sweep.axes)))
    return [
        tuple(axis.at(share) for axis, share in zip(sweep.axes, shares, strict=True))
        for shares in _shares(sweep.sample, len(sweep.axes))
    ]


def _shares(sample: Sample, axes: int) -> Sequence[Sequence[float]]:
    import numpy as np  # noqa: PLC0415
    from scipy.stats import qmc  # noqa: PLC0415 - takes a second, and a grid does not need it

    rng = np.random.default_rng(sample.seed)
    if axes == 0:
        return [()]
    if sample.kind == "random":
        return [list(row) for row in rng.random((sample.count, axes))]
    drawn = qmc.Sobol(axes, scramble=True, rng=rng).random_base2(max(0, math.ceil(math.log2(sample.count))))
    return [list(row) for row in drawn[: sample.count]]


def _point(sweep: Sweep, path: Path, tables: dict[str, Any], choices: Sequence[Choice], seed: int) -> Point:
    changed = copy.deepcopy(tables)
    labels = {axis.title: choice.label for axis, choice in zip(sweep.axes, choices, strict=True)}
    where = ", ".join([*(f"{name} = {label}" for name, label in labels.items()), f"seed {seed}"])
    try:
        for choice in choices:
            for key, value in choice.set.items():
                assign(changed, key, value)
        assign(changed, "task.seed", seed)
        assign(changed, "devices.seed", seed)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    changed.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]", "-", sweep.name)[:40])
    study = study_of(changed, path, origin=f"{path} ({where})")
    name = hashlib.sha256(to_toml(study).encode()).hexdigest()[:12]
    return Point(name=name, labels=labels, seed=seed, study=study)

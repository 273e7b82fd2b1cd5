"""What a sweep's file stands for."""

from __future__ import annotations

import copy

import pytest

from contract.errors import ConfigurationError
from deploy.sweep.plan import load_sweep, points
from deploy.sweep.settings_path import assign

BASE = """
name = "tiny"
seeds = [1, 2]
[study]
clients = 2
[study.task]
dataset = "digits"
model = { hidden = [8] }
[[study.schedule]]
kind = "train"
[[study.schedule]]
kind = "audit"
algorithm = "fedsgd"
batch_size = 1
"""


def planned(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(BASE + text)
    sweep = load_sweep(path)
    return sweep, points(sweep, path)


@pytest.mark.parametrize(
    ("path", "codecs"),
    [
        ("schedule[0].codec", ["int4", "fp32"]),
        ("schedule[*].codec", ["int4", "int4"]),
        ("schedule[audit].codec", ["fp32", "int4"]),
    ],
)
def test_a_path_names_entries_of_a_list(path, codecs):
    tables = {"schedule": [{"codec": "fp32"}, {"kind": "audit", "codec": "fp32"}]}
    assign(tables, path, "int4")
    assert [entry["codec"] for entry in tables["schedule"]] == codecs


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("schedule[2].codec", "2 entries, counted from 0"),
        ("schedule[dance].codec", "no entry of 'schedule' has kind 'dance'; there are: train, audit"),
        ("schedule.codec", "lists need a bracket"),
        ("shedule[*].codec", "the study has no list 'shedule'"),
        ("task..steps", "is no step of it"),
        ("schedule[0]", "name the key behind it"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path, said):
    tables = {"schedule": [{"codec": "fp32"}, {"kind": "audit"}]}
    before = copy.deepcopy(tables)
    with pytest.raises(ConfigurationError, match=r".*") as caught:
        assign(tables, path, "int4")
    assert said in str(caught.value)
    assert tables == before


def test_a_grid_is_all_combinations_with_each_seed(tmp_path):
    sweep, found = planned(
        tmp_path,
        """
[[axes]]
key = "task.encoding.steps"
values = [4, 8]
[[axes]]
name = "defence"
[[axes.choices]]
label = "none"
[[axes.choices]]
label = "top 1 %"
set = { "schedule[*].codec" = "topk", "schedule[*].share" = 0.01 }
""",
    )
    assert [(p.labels["task.encoding.steps"], p.labels["defence"], p.seed) for p in found] == [
        (steps, defence, seed) for steps in ("4", "8") for defence in ("none", "top 1 %") for seed in (1, 2)
    ]
    last = found[-1].study
    assert (last.task.encoding.steps, last.task.seed, last.devices.seed) == (8, 2, 2)
    assert {(entry.codec, entry.share) for entry in last.schedule} == {("topk", 0.01)}
    assert found[0].study.schedule[0].codec != "topk"
    assert len({p.name for p in found}) == 8
    again = points(sweep, tmp_path / "sweep.toml")
    assert [p.name for p in again] == [p.name for p in found]


def test_a_base_is_changed_where_the_sweep_says_so(tmp_path):
    (tmp_path / "base.toml").write_text('name = "b"\nclients = 3\n[task]\ndataset = "digits"\nseed = 9\n[[schedule]]\n')
    path = tmp_path / "sweep.toml"
    path.write_text('name = "s"\nbase = "base.toml"\n[study.task.encoding]\nsteps = 7\n')
    (point,) = points(load_sweep(path), path)
    assert (point.study.name, point.study.clients, point.study.task.encoding.steps) == ("b", 3, 7)
    assert point.study.task.seed == 1


@pytest.mark.parametrize("kind", ["sobol", "random"])
def test_a_sample_fills_the_axes_evenly(tmp_path, kind):
    _, found = planned(
        tmp_path,
        f"""
[sample]
kind = "{kind}"
count = 64
[[axes]]
key = "task.encoding.steps"
low = 4
high = 7
whole = true
[[axes]]
key = "schedule[train].learning_rate"
low = 0.001
high = 1.0
scale = "log"
[[axes]]
key = "task.neuron.surrogate"
values = ["atan", "fast_sigmoid"]
""",
    )
    assert len(found) == 128
    steps = [p.study.task.encoding.steps for p in found]
    assert set(steps) == {4, 5, 6, 7}
    rates = sorted(p.study.schedule[0].learning_rate for p in found)
    assert 0.001 <= rates[0] < rates[-1] < 1.0
    assert 0.01 < rates[len(rates) // 2] < 0.1  # the middle of a logarithmic range
    if kind == "sobol":  # each eighth of a range has an eighth of the points
        assert max(steps.count(s) for s in set(steps)) - min(steps.count(s) for s in set(steps)) <= 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[axes]]\nkey = "task.encoding.steps"\nvalues = [0]\n', ["steps = 0, seed 1", ">= 1"]),
        ('[[axes]]\nkey = "task.encoding.step"\nvalues = [3]\n', ["task.encoding.step", "did you mean 'steps'"]),
        ('[[axes]]\nkey = "a"\n', ["exactly one of values, choices, or low with high"]),
        ('[[axes]]\nkey = "a"\nlow = 1.0\nhigh = 0.5\n', ["low = 1.0, high = 0.5"]),
        ('[[axes]]\nkey = "a"\nlow = 0.0\nhigh = 0.5\n', ["needs [sample]"]),
        ('[[axes]]\nkey = "a"\nlow = 0.0\nhigh = 0.5\nscale = "log"\n', ["must be above 0"]),
        ('[[axes]]\nkey = "a"\nvalues = [1]\n[[axes]]\nkey = "a"\nvalues = [2]\n', ["two have the same name"]),
        ('[[axes]]\nchoices = [{ label = "x" }]\n', ["needs a name"]),
        (f'[[axes]]\nkey = "task.seed"\nvalues = {list(range(6000))}\n', ["12000 runs, at most 10000"]),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigurationError) as caught:
        planned(tmp_path, text)
    assert str(tmp_path / "sweep.toml") in str(caught.value)
    for part in said:
        assert part in str(caught.value)

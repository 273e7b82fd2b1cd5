"""Studies as TOML: what is written down reads back as the same study."""

from __future__ import annotations

import msgspec
import pytest

from contract.configuration import decode_toml
from contract.errors import ConfigurationError
from contract.task import ModelSpec, TaskSpec, task_hash
from deploy.study import Study, to_toml
from server.settings import ScheduleEntry


@pytest.mark.parametrize("bits", [2, 4, 8, None])
def test_a_study_reads_back_with_its_weights(tmp_path, bits):
    study = Study(name="s", schedule=(ScheduleEntry(),), task=TaskSpec(model=ModelSpec(weight_bits=bits)))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(study))
    assert decode_toml(path, Study) == study


def test_32_bits_are_float_weights_and_the_same_task(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('name = "s"\n[[schedule]]\n[task.model]\nweight_bits = 32\n')
    task = decode_toml(path, Study).task
    assert task.model.weight_bits is None
    assert task_hash(task) == task_hash(TaskSpec(model=ModelSpec(weight_bits=None)))
    assert msgspec.json.decode(msgspec.json.encode(task))["model"]["weight_bits"] is None


def test_other_widths_are_refused(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('name = "s"\n[[schedule]]\n[task.model]\nweight_bits = 16\n')
    with pytest.raises(ConfigurationError, match=r"task\.model\.weight_bits' = 16"):
        decode_toml(path, Study)

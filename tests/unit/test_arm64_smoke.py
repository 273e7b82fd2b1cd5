"""The hardware-free check of the board's wheels: its parts that need no emulator."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.arm64.__main__ import CASES, TOLERANCE, difference, train_here, write_case
from tests.arm64.root import CPUS, describe


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder, *CASES["fc float T=10 B=16"])
    return train_here(folder)


def test_the_guest_trains_with_what_a_board_has(here):
    about = msgspec.json.decode(here.with_suffix(".json").read_bytes())
    assert about["torch"] is False
    assert len(about["seconds"]) == 3
    assert about["spikes"] > 0


def test_a_difference_is_seen_in_any_tensor(here, tmp_path):
    assert difference(here, here) == 0
    with np.load(here) as arrays:
        changed = dict(arrays)
    name = "layers.1.bias"
    changed[name] = changed[name] + 2 * TOLERANCE * np.abs(changed[name]).max()
    other = tmp_path / "other.npz"
    np.savez(other, **changed)
    other.with_suffix(".json").write_bytes(here.with_suffix(".json").read_bytes())
    assert difference(here, other) == pytest.approx(2 * TOLERANCE, rel=0.05)


@pytest.mark.parametrize("cpu", CPUS, ids=lambda cpu: cpu.name)
def test_the_folder_describes_the_board_s_cores(tmp_path, cpu):
    describe(tmp_path, cpu)
    text = (tmp_path / "proc/cpuinfo").read_text()
    assert text.count("processor") == 4
    assert text.count(cpu.part) == 4
    assert (tmp_path / "sys/devices/system/cpu/cpu3/cache/index2/size").read_text() == f"{cpu.l2}\n"

"""The Raspberry Pi 5's PMIC against a recorded reading: twelve rails or a reason."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware.meters import pmic
from hardware.power import PowerSource, SampleError
from tests import meter_trees as trees


def reason(source: PowerSource) -> str:
    with pytest.raises(SampleError) as caught:
        source.power_w()
    assert str(caught.value)
    return str(caught.value)


def test_sums_twelve_rails(tmp_path: Path) -> None:
    """Against the pairing by order of the script that the fixture comes with; a real program is run."""
    fixture = tmp_path / "reading.txt"
    fixture.write_text(trees.PI5)
    trees.vcgencmd(tmp_path, f'test "$1" = pmic_read_adc && cat {fixture}')
    numbers = [float(line.partition("=")[2][:-1]) for line in trees.PI5.splitlines()]
    source = pmic.open_source("", tmp_path)
    assert source.power_w() == pytest.approx(sum(a * v for a, v in zip(numbers[:12], numbers[12:24], strict=True)))
    assert source.power_w() == pytest.approx(10.80, abs=0.005)
    assert (source.scope, source.resolution_w) == ("pmic-rails", None)
    finding = pmic.find(tmp_path)
    assert finding.available
    assert "never reported as measured" in finding.detail


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo "Can\'t open device file: /dev/vcio"; exit 255', "usermod -aG video"),
        ("echo 'VCHI initialization failed' >&2; exit 255", "usermod -aG video"),
        ("echo 'error=1 error_msg=\"Command not registered\"'; exit 0", "Raspberry Pi 5"),
        ("exit 3", "status 3"),
        ("exit 0", "status 0"),
        ("printf '\\377\\376'", "cannot run"),
    ],
)
def test_program_that_fails(script: str, words: str, tmp_path: Path) -> None:
    trees.vcgencmd(tmp_path, script)
    assert words in reason(pmic.open_source("", tmp_path))
    assert not pmic.find(tmp_path).available


def raising(error: Exception) -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "usermod -aG video"),
        (subprocess.TimeoutExpired("vcgencmd", 5), "did not answer within 5 s"),
        (OSError(8, "Exec format error"), "Exec format error"),
    ],
)
def test_program_that_cannot_be_run(error: Exception, words: str, tmp_path: Path) -> None:
    trees.vcgencmd(tmp_path, "exit 0")
    assert words in reason(pmic.open_source("", tmp_path, run=raising(error)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("   3V3_SYS_A current(1)=0.06245952A\n", "", "left out 3V3_SYS_A"),
        ("  VDD_CORE_V volt(15)=0.89745940V\n", "", "left out VDD_CORE_V"),
        ("10.87674000A", "0.00000000A", "VDD_CORE says 0 W"),
        ("10.87674000A", "-1.00000000A", "outside 0"),
        ("10.87674000A", "nanA", "expected NAME_A"),
        ("10.87674000A", "10876.74000000A", "outside 0 … 50"),
        ("10.87674000A", "10876.74mA", "expected NAME_A"),
        ("10.87674000A", "10,87674000A", "expected NAME_A"),
        ("volt(9)=3.30632200V", "volt(9)=0.00000000V", "3V3_SYS has 0.06245952 A at 0 V"),
        ("HDMI_A", "VDD_CORE_A", "names VDD_CORE twice"),
        ("     EXT5V_V", "     EXT5V_A current(26)=1.00000000A\n     EXT5V_V", "rails that this meter does not"),
        (
            "     EXT5V_V",
            "     3V3_NEW_V volt(27)=3.30000000V\n     EXT5V_V",
            "rails that this meter does not: 3V3_NEW",
        ),
    ],
)
def test_readings_that_are_none(old: str, new: str, words: str) -> None:
    assert old in trees.PI5
    with pytest.raises(SampleError, match=words.replace("(", r"\(")):
        pmic.power_of(trees.PI5.replace(old, new))

"""What the meters of boards show, as small trees of files: recorded where a recording is public, else built by the
driver's own arithmetic. Each names its source.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

HWMON = "sys/class/hwmon"
I2C = "sys/bus/i2c/drivers"

# Recorded on a Raspberry Pi 5 under load: github.com/jfikar/RPi5-power, README.md
PI5 = """\
 3V7_WL_SW_A current(0)=0.00000000A
   3V3_SYS_A current(1)=0.06245952A
   1V8_SYS_A current(2)=0.16102850A
  DDR_VDD2_A current(3)=0.00780744A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.17566740A
    0V8_SW_A current(6)=0.32791250A
  VDD_CORE_A current(7)=10.87674000A
   3V3_DAC_A current(17)=0.00036630A
   3V3_ADC_A current(18)=0.00042735A
   0V8_AON_A current(16)=0.00579975A
      HDMI_A current(22)=0.01367520A
 3V7_WL_SW_V volt(8)=3.79999600V
   3V3_SYS_V volt(9)=3.30632200V
   1V8_SYS_V volt(10)=1.79828900V
  DDR_VDD2_V volt(11)=1.10292900V
  DDR_VDDQ_V volt(12)=0.60476130V
   1V1_SYS_V volt(13)=1.10439400V
    0V8_SW_V volt(14)=0.80256330V
  VDD_CORE_V volt(15)=0.89745940V
   3V3_DAC_V volt(20)=3.30494200V
   3V3_ADC_V volt(21)=3.30219400V
   0V8_AON_V volt(19)=0.79736190V
      HDMI_V volt(23)=5.07056000V
     EXT5V_V volt(24)=5.06788000V
      BATT_V volt(25)=3.01110800V
"""


def hwmon_chip(number: int, place: str, **files: object) -> dict[str, str]:
    """A chip as ``/sys/class/hwmon/hwmonN``; ``device`` becomes a link to its I2C device."""
    folder = f"{HWMON}/hwmon{number}"
    tree = {f"{folder}/{name}": f"{value}\n" for name, value in files.items()}
    return tree | {f"{folder}/device": f"-> ../../../devices/i2c-1/{place}", f"sys/devices/i2c-1/{place}/uevent": ""}


# A Pi has other hwmon devices too: Linux kernel, drivers/thermal/thermal_hwmon.c and drivers/hwmon/raspberrypi-hwmon.c
OTHERS = {
    f"{HWMON}/hwmon0/name": "cpu_thermal\n",
    f"{HWMON}/hwmon0/temp1_input": "48312\n",
    f"{HWMON}/hwmon1/name": "rpi_volt\n",
    f"{HWMON}/hwmon1/in0_lcrit_alarm": "0\n",
}
# Files and units: Linux kernel, Documentation/hwmon/ina2xx.rst; steps of drivers/hwmon/ina2xx.c (2 mW at 100 mΩ)
INA219 = OTHERS | hwmon_chip(
    2, "1-0040", name="ina219", in0_input=61, in1_input=5096, curr1_input=612, power1_input=3118000,
    shunt_resistor=100000,
)  # fmt: skip
# Recorded while a battery discharges through a shunt mounted the other way: networkupstools/nut, issue 2960
INA219_BACKWARDS = hwmon_chip(
    2, "1-0043", name="ina219", in0_input=-4, in1_input=4228, curr1_input=-40, power1_input=176000,
    shunt_resistor=100000,
)  # fmt: skip
# As above; update_interval in milliseconds, 16 averages of 2.2 ms
INA226 = hwmon_chip(
    1, "1-0041", name="ina226", in0_input=6, in1_input=5080, curr1_input=601, power1_input=3050000,
    shunt_resistor=10000, update_interval=35,
)  # fmt: skip
# INA260: shunt inside, no shunt_resistor; has_ishunt in drivers/hwmon/ina2xx.c, raspberrypi/linux 7004
INA260 = hwmon_chip(3, "1-0045", name="ina260", in1_input=5010, curr1_input=498, power1_input=2490000)
# Recorded on a switch: sonic-net/sonic-linux-kernel, pull request 585
INA238 = hwmon_chip(
    30, "57-0040", name="ina238", in0_input=3, in1_input=54434, curr1_input=360, power1_input=19555200,
    temp1_input=37750, shunt_resistor=10000,
)  # fmt: skip
# The same file names on a Jetson Thor, rail VIN: rbonghi/jetson_stats, pull request 900; forum thread 366461
THOR = hwmon_chip(
    4, "2-0044", name="ina238", label="VIN", in1_input=19950, curr1_input=2105, power1_input=41994000,
    shunt_resistor=2000,
)  # fmt: skip


def ina3221_hwmon(place: str, number: int, rails: Mapping[int, tuple[str, int, int, int]]) -> dict[str, str]:
    """A chip of JetPack 5 or 6: channel → label, mV, mA, shunt in µΩ. Linux kernel, Documentation/hwmon/ina3221.rst."""
    folder = f"{I2C}/ina3221/{place}/hwmon/hwmon{number}"
    tree = {
        f"{folder}/name": "ina3221\n",
        f"{folder}/in7_label": "sum of shunt voltages\n",
        f"{folder}/in7_input": "4800\n",
        f"{folder}/curr4_input": "960\n",
        f"{folder}/samples": "1\n",
        f"{folder}/update_interval": "7\n",
    }
    for channel, (label, voltage_mv, current_ma, shunt_uohm) in rails.items():
        tree[f"{folder}/in{channel}_label"] = f"{label}\n"
        tree[f"{folder}/in{channel}_input"] = f"{voltage_mv}\n"
        tree[f"{folder}/in{channel + 3}_input"] = f"{current_ma * shunt_uohm // 1000}\n"
        tree[f"{folder}/curr{channel}_input"] = f"{current_ma}\n"
        tree[f"{folder}/shunt{channel}_resistor"] = f"{shunt_uohm}\n"
    return tree


# Rails and shunts: Linux kernel, arch/arm64/boot/dts/nvidia/tegra234-p3767.dtsi
ORIN_NANO = ina3221_hwmon(
    "1-0040",
    1,
    {1: ("VDD_IN", 4920, 440, 5000), 2: ("VDD_CPU_GPU_CV", 4912, 80, 5000), 3: ("VDD_SOC", 4920, 192, 5000)},
)
# tegra234-p3701.dtsi; NVIDIA's own kernels label the unused channels NC
AGX_ORIN = ina3221_hwmon(
    "1-0040",
    4,
    {1: ("VDD_GPU_SOC", 19984, 180, 2000), 2: ("VDD_CPU_CV", 19984, 40, 2000), 3: ("VIN_SYS_5V0", 5024, 780, 2000)},
) | ina3221_hwmon("1-0041", 5, {1: ("NC", 0, 0, 2000), 2: ("VDDQ_VDD2_1V8AO", 5024, 120, 2000), 3: ("NC", 0, 0, 2000)})


def ina3221_iio(place: str, number: int, rails: Mapping[int, tuple[str, int, int]]) -> dict[str, str]:
    """A chip of JetPack 4: channel → name, mV, mA. Files: energymon, jetson/ina3221x.c; jetson_stats, issue 131."""
    folder = f"{I2C}/ina3221x/{place}/iio:device{number}"
    tree = {f"{folder}/name": "ina3221x\n"}
    for channel, (name, voltage_mv, current_ma) in rails.items():
        tree[f"{folder}/rail_name_{channel}"] = f"{name}\n"
        tree[f"{folder}/in_voltage{channel}_input"] = f"{voltage_mv}\n"
        tree[f"{folder}/in_current{channel}_input"] = f"{current_ma}\n"
        tree[f"{folder}/in_power{channel}_input"] = f"{voltage_mv * current_ma // 1000}\n"
        tree[f"{folder}/polling_delay_{channel}"] = "0 ms\n"
    return tree


# Rails: energymon, jetson/JetsonPowerRails.md (Nano, AGX Xavier)
NANO = ina3221_iio(
    "6-0040", 0, {0: ("POM_5V_IN", 5016, 488), 1: ("POM_5V_GPU", 5016, 24), 2: ("POM_5V_CPU", 5016, 152)}
)
AGX_XAVIER = ina3221_iio(
    "1-0040", 0, {0: ("GPU", 19144, 0), 1: ("CPU", 19144, 96), 2: ("SOC", 19144, 80)}
) | ina3221_iio("1-0041", 1, {0: ("CV", 19144, 0), 1: ("VDDRQ", 19144, 32), 2: ("SYS5V", 5008, 320)})


def rapl_package(folder: str, name: str, energy_uj: int, range_uj: int) -> dict[str, str]:
    """A domain of powercap. Linux kernel, Documentation/power/powercap/powercap.rst."""
    base = f"sys/class/powercap/{folder}"
    return {
        f"{base}/name": f"{name}\n",
        f"{base}/energy_uj": f"{energy_uj}\n",
        f"{base}/max_energy_range_uj": f"{range_uj}\n",
    }


def write(tree: Mapping[str, str], root: Path) -> Path:
    """Make the files; a text that begins with ``->`` makes a link."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    return root


def vcgencmd(root: Path, script: str) -> Path:
    """A program in vcgencmd's place."""
    path = root / "usr/bin/vcgencmd"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def damage(path: Path, content: bytes | str | None) -> None:
    """Put other content in a file's place: bytes, ``directory``, or nothing at all."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content == "directory":
        path.mkdir(parents=True)
    elif isinstance(content, bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def denied(*paths: Path) -> Iterator[None]:
    """Root may read everything, so the denial is injected where files are opened and folders listed."""
    barred = {str(path) for path in paths}
    genuine = {name: getattr(Path, name) for name in ("read_text", "iterdir")}

    def barring(name: str) -> object:
        def call(path: Path, *args: str, **kwargs: str) -> object:
            if str(path) in barred:
                raise PermissionError(13, "Permission denied", str(path))
            return genuine[name](path, *args, **kwargs)

        return call

    with patch.multiple(Path, **{name: barring(name) for name in genuine}):
        yield

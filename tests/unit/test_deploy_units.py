"""Units and container files: by their own tools where those exist, and by rules of ours everywhere.

`.ci/run` installs systemd's tools: in CI their absence is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "SystemCallArchitectures": "native",
    "LimitCORE": "0",
    "Restart": "on-failure",
    "RestartPreventExitStatus": "2",
    "UMask": "0077",
}
MOST_EXPOSED = 2.0
"""Of systemd's scale from 0 to 10, on which 10 is a service of root without any of this."""


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith(("#", "[")):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        assert not os.environ.get("CI"), "CI without systemd-analyze: .ci/run installs it"
        pytest.skip("systemd-analyze is not here: only the rules of this file were held")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def test_there_is_a_unit_for_each_party() -> None:
    assert [path.stem for path in UNITS] == ["spikeleak-attack", "spikeleak-client", "spikeleak-server"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_no_unit_has_more_rights_than_it_needs(path: Path) -> None:
    told = settings(path)
    for key, value in HARDENED.items():
        assert told.get(key) == [value], f"{path.name}: {key} = {told.get(key)}, wanted {value!r}"
    assert "User" not in told
    (credential,) = told["LoadCredential"]
    assert re.fullmatch(r"\w+\.key:/etc/spikeleak/\w+\.key", credential)
    assert re.fullmatch(r"\d+[MG]", told["MemoryMax"][0])
    assert "~@privileged" in told["SystemCallFilter"]


def test_a_hung_device_is_ended_and_a_beat_comes_often_enough() -> None:
    from edge_client.supervision import Supervision

    told = settings(UNITS[1])
    assert (told["Type"], told["NotifyAccess"]) == (["notify"], ["main"])
    seconds = float(told["WatchdogSec"][0])
    every_s = Supervision({"WATCHDOG_USEC": str(int(seconds * 1e6))})._every_s
    assert every_s <= seconds / 4


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_itself_takes_the_units(path: Path, tmp_path: Path) -> None:
    text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", path.read_text(), flags=re.MULTILINE)  # it is not installed here
    (tmp_path / path.name).write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    done = analyze("verify", "--man=no", str(tmp_path / path.name))
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), done.stderr
    done = analyze("security", "--offline=true", f"--threshold={int(10 * MOST_EXPOSED)}", str(tmp_path / path.name))
    assert done.returncode == 0, done.stdout[-300:]
    exposed = float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1])
    assert exposed <= MOST_EXPOSED


def test_a_mistake_in_a_unit_is_seen(tmp_path: Path) -> None:
    wrong = UNITS[1].read_text().replace("MemoryMax=512M", "MemoryMax=plenty")
    (tmp_path / UNITS[1].name).write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", wrong, flags=re.MULTILINE))
    assert "Invalid memory limit 'plenty'" in analyze("verify", "--man=no", str(tmp_path / UNITS[1].name)).stderr


def test_the_compose_file_has_the_three_parties_and_gives_none_more_than_it_needs() -> None:
    told = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
    services = told["services"]
    assert services.keys() == {"broker", "server", "attacker"}
    for name, service in services.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert not {"privileged", "cap_add", "devices", "network_mode"} & service.keys(), name
        assert ":latest" not in service["image"]
        mounted = [volume for volume in service["volumes"] if volume.startswith("${LAB:?")]
        assert [volume.split("}")[1].split(":")[0] for volume in mounted] == [f"/{name}"], (
            "one party sees its own bundle"
        )
    assert services["broker"]["user"] == "1883:1883"
    assert services["server"]["command"][0] == "server"
    assert services["attacker"]["command"][0] == "attack"
    build = services["server"]["build"]
    assert (ROOT / "deploy/compose" / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    named = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert {name for name in named if name[0].isalpha()} == told["volumes"].keys()


def test_the_dockerfile_builds_from_sources_that_are_there_and_runs_as_nobody_special() -> None:
    text = (ROOT / "deploy/compose/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert {name for names in copied for name in names} == {
        *("pyproject.toml", "README.md", "contract", "hardware", "edge_client", "server", "attack", "deploy")
    }
    assert all((ROOT / name).exists() for names in copied for name in names)
    last = lines[max(at for at, line in enumerate(lines) if line.startswith("FROM")) :]
    assert [line for line in last if line.startswith("USER")] == ["USER 10001"]
    assert not any("apt-get" in line or line.startswith("ADD") for line in lines)
    assert all("--platform" not in line for line in lines if line.startswith("FROM")), "for each architecture its own"
    program = shutil.which("hadolint")
    if program is not None:
        done = subprocess.run([program, str(ROOT / "deploy/compose/Dockerfile")], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout

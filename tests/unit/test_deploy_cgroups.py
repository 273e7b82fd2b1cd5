"""Control groups on a tree that looks like the kernel's, version 1 and 2; and where there is none."""

from __future__ import annotations

from pathlib import Path

from deploy import cgroups


def process(tmp_path: Path, mounts: str, own: str) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mountinfo").write_text(mounts)
    (proc / "cgroup").write_text(own)
    return proc


def test_version_2_below_the_own_group(tmp_path: Path) -> None:
    own = tmp_path / "cg" / "user"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("cpu memory pids\n")
    proc = process(tmp_path, f"30 24 0:26 / {tmp_path}/cg rw shared:4 - cgroup2 cgroup2 rw\n", "0::/user\n")
    place = cgroups.find(proc)
    assert place == cgroups.Place(version=2, cpu=own, memory=own)
    group = cgroups.Group(place, "pi", cpu_share=0.25, memory_bytes=1000)
    assert (own / "pi" / "cpu.max").read_text() == "5000 20000"
    assert (own / "pi" / "memory.max").read_text() == "1000"
    group.add(12)
    assert (own / "pi" / "cgroup.procs").read_text() == "12"
    group.lift()
    assert (own / "pi" / "cpu.max").read_text() == "max 20000"


def test_version_1_in_a_container_that_sees_a_part_of_the_tree(tmp_path: Path) -> None:
    for controller in ("cpu", "memory"):
        (tmp_path / controller / "task").mkdir(parents=True)
    mounts = (
        f"40 30 0:30 /box {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"41 30 0:31 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    )
    place = cgroups.find(process(tmp_path, mounts, "5:cpu,cpuacct:/box/task\n4:memory:/task\n0::/\n"))
    cpu, memory = tmp_path / "cpu" / "task", tmp_path / "memory" / "task"
    assert place == cgroups.Place(version=1, cpu=cpu, memory=memory)
    group = cgroups.Group(place, "pi", cpu_share=0.1, memory_bytes=None)
    assert (cpu / "pi" / "cpu.cfs_quota_us").read_text() == "2000"
    assert (cpu / "pi" / "cpu.cfs_period_us").read_text() == "20000"
    assert list((memory / "pi").iterdir()) == []
    group.lift()
    assert (cpu / "pi" / "cpu.cfs_quota_us").read_text() == "-1"


def test_without_any_there_is_no_place(tmp_path: Path) -> None:
    assert cgroups.find(tmp_path) is None
    assert cgroups.find(process(tmp_path, "30 24 0:26 / /x rw - ext4 /dev/x rw\n", "0::/user\n")) is None

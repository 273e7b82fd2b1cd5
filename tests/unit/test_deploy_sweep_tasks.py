"""Tasks on a cluster's node: what they leave behind, and when a run has to begin anew."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile

import msgspec
import psutil
import pytest

from attack.settings import AttackSettings
from contract.link import LinkSettings
from deploy.broker import BrokerSection, free_port
from deploy.study import AttackSection, Study, to_toml
from deploy.sweep import run_task
from deploy.sweep.run_task import BeginAnewError, _require_whole, why_kept
from deploy.sweep.task_process import task_folder
from server.settings import ScheduleEntry

STUDY = Study(name="s", schedule=(ScheduleEntry(kind="audit"),))
TASK = """
import sys
from pathlib import Path
from deploy.sweep.task_process import process, task_folder
with task_folder("attack") as folder:
    (folder / "attack.toml").write_text(Path(sys.argv[1]).read_text())
    with process(folder, "attack", str(folder / "attack.toml")) as begun:
        print(folder, begun.pid, flush=True)
        begun.wait()
"""


def test_the_attacker_of_a_killed_task_ends_and_takes_its_folder_along(tmp_path):
    (tmp_path / "nodes").mkdir()
    settings = AttackSettings(run="r", link=LinkSettings(port=free_port()), directory=tmp_path / "attack")
    (tmp_path / "attack.toml").write_text(to_toml(settings))
    command = [sys.executable, "-c", TASK, str(tmp_path / "attack.toml")]
    places = {"TMPDIR": str(tmp_path / "nodes")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | places) as task:
        _, pid = task.stdout.readline().split()
        attacker = psutil.Process(int(pid))
        task.send_signal(signal.SIGKILL)
    attacker.wait(20.0)  # not the 10 s that it looks for its broker
    assert not list((tmp_path / "nodes").iterdir())


def test_a_task_removes_what_killed_ones_left_and_nothing_that_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive, others = (tmp_path / name for name in ("spikeleak-run-dead", "spikeleak-run-alive", "of-others"))
    for folder in (dead, alive, others):
        folder.mkdir()
        (folder / ".task").touch()
    with (alive / ".task").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with task_folder("run") as one, task_folder("attack") as another:
            assert set(tmp_path.iterdir()) == {alive, others, one, another}
    assert set(tmp_path.iterdir()) == {alive, others}


def summary(folder, **leakage):
    (folder / "out").mkdir()
    found = {"leakage": {"unscored": 0, "never_attacked": 0}}
    twin = {"leakage": {"unscored": 0, "never_attacked": 0, **leakage}}
    (folder / "out" / "summary.json").write_bytes(msgspec.json.encode({**found, "twin": twin}))
    (folder / "task.log").write_text("the last line\n")


@pytest.mark.parametrize("left", [{}, {"unscored": 1}, {"never_attacked": 1}])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_run_that_lost_a_job_and_a_score_begins_anew(tmp_path, left, lost):
    summary(tmp_path, **left)
    if lost and left:
        with pytest.raises(BeginAnewError):
            _require_whole(0, tmp_path, lost)
    else:
        _require_whole(0, tmp_path, lost)


def test_a_run_that_failed_begins_anew_only_if_a_lost_job_may_be_the_reason(tmp_path):
    summary(tmp_path)
    for status, lost in ((1, 0), (2, 0), (2, 1)):
        with pytest.raises(RuntimeError, match=f"status {status}: the last line") as found:
            _require_whole(status, tmp_path, lost)
        assert not isinstance(found.value, BeginAnewError)
    with pytest.raises(BeginAnewError, match="the last line"):
        _require_whole(1, tmp_path, 1)


def test_attackers_stay_with_their_run_where_its_broker_has_no_door(monkeypatch):
    assert why_kept(STUDY) == ""
    assert "nobody" in why_kept(msgspec.structs.replace(STUDY, attack=AttackSection(attacks=())))
    assert "'amqtt'" in why_kept(msgspec.structs.replace(STUDY, broker=BrokerSection(kind="amqtt")))
    monkeypatch.setattr(run_task.broker, "mosquitto_path", lambda: None)
    assert "mosquitto" in why_kept(STUDY)

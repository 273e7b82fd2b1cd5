"""The schedule of coming and going: of the seed alone, in the proportions asked for."""

from __future__ import annotations

from itertools import islice

import pytest

from contract.configuration import decode_tables
from contract.errors import ConfigurationError
from deploy.attendance import Absence, Attendance, ChurnSection, absences


def times(section: ChurnSection, node: str, count: int) -> list[Absence]:
    return list(islice(absences(section, node), count))


def test_seed_and_name_give_the_schedule() -> None:
    section = ChurnSection(seed=7, crash=0.3, sleep=0.3)
    assert times(section, "device-001", 20) == times(section, "device-001", 20)
    assert times(section, "device-001", 20) != times(section, "device-002", 20)
    assert times(section, "device-001", 20) != times(ChurnSection(seed=8, crash=0.3, sleep=0.3), "device-001", 20)


def test_stays_and_absences_have_their_means_and_kinds_their_shares() -> None:
    section = ChurnSection(online_s=50.0, away_s=5.0, crash=0.2, sleep=0.3)
    found = times(section, "device-000", 8000)
    backs = [0.0, *(a.back_s for a in found)]
    stays = [a.leave_s - back for a, back in zip(found, backs, strict=False)]
    away = [a.back_s - a.leave_s for a in found]
    assert min(stays) >= 0
    assert min(away) >= 0
    assert sum(stays) / len(stays) == pytest.approx(50.0, rel=0.05)
    assert sum(away) / len(away) == pytest.approx(5.0, rel=0.05)
    shares = {kind: sum(a.kind == kind for a in found) / len(found) for kind in ("crash", "sleep", "leave")}
    assert shares == pytest.approx({"crash": 0.2, "sleep": 0.3, "leave": 0.5}, abs=0.02)


def test_a_share_of_the_devices_stays() -> None:
    section = ChurnSection(share=0.25)
    moving = sum(bool(times(section, f"device-{i:03d}", 1)) for i in range(2000))
    assert moving / 2000 == pytest.approx(0.25, abs=0.04)
    stays = Attendance(ChurnSection(share=0.0), "device-000", began_s=0.0)
    assert stays.present
    assert stays.due(1e9) is None


def test_who_joins_late_is_away_at_first_and_changes_come_in_their_order() -> None:
    section = ChurnSection(join_s=10.0, seed=3, crash=1.0)
    first, second = times(section, "device-000", 2)
    attendance = Attendance(section, "device-000", began_s=100.0)
    assert not attendance.present
    assert attendance.due(100.0) is None
    assert attendance.due(100.0 + first.back_s) == "back"
    assert attendance.due(100.0 + first.back_s) is None
    assert attendance.due(100.0 + second.leave_s) == "crash"
    assert not attendance.present
    assert attendance.due(100.0 + second.back_s) == "back"


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"crash = 0\.7 and sleep = 0\.6"):
        decode_tables({"crash": 0.7, "sleep": 0.6}, ChurnSection, origin="study.toml")

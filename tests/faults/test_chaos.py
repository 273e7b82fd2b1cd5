"""Each row of `make chaos` in its short form: a twentieth of its count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.chaos import CI_SHARE, ROWS


@pytest.mark.parametrize("name", ROWS)
def test_a_twentieth_of_each_row(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    count = row.share(CI_SHARE)
    assert row.load()(count, tmp_path).injected >= count


def test_a_row_that_breaks_is_said_and_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from tests.faults.chaos import Row, __main__

    rows = {"broken": Row(module="none_of_that_name", fault="nothing", count=1, claim="none")}
    monkeypatch.setattr(__main__, "ROWS", rows)
    assert __main__.main([]) == 1
    assert "DOES NOT HOLD" in capsys.readouterr().out

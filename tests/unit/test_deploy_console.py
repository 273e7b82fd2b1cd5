"""What a person reads on the terminal, also on a narrow one: no word is cut."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy import cli
from deploy.progress_display import LiveDisplay
from server.progress import Progress

STATE = Progress(
    status="finished",
    round=15,
    rounds=15,
    kind="train",
    arrived=4,
    selected=4,
    accuracy=0.9,
    energy_j={"measured": 1.5, "modelled": 0.123},
    worst_psnr_db=151.3,
    admitted=60,
    scored=60,
)


def part(accuracy: float | None) -> dict[str, Any]:
    figures = {"worst_psnr_db": 151.3, "worst_attack": "row_space_enumeration"}
    return {
        "accuracy": accuracy,
        "energy_j": {"value": 0.123, "provenance": "modelled"},
        "updates": {"lost": 0, "duplicated": 0},
        "leakage": {
            "by_schedule": {"audit": figures, "train": {"worst_psnr_db": None, "worst_attack": None}},
            "unscored": 24,
        },
    }


@pytest.mark.parametrize("columns", [50, 60, 80])
def test_the_summary_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    text = io.StringIO()
    monkeypatch.setattr(cli, "out_console", Console(file=text, width=columns))
    cli._print_summary(part(0.912), Path("out"), 61.0)
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert lines[0] == ["run"]
    assert ["accuracy", "91.2%"] in lines
    assert ["worst", "PSNR,", "training", "—"] in lines
    assert ["not", "scored", "24"] in lines
    assert ["duplicated", "0"] in lines
    assert "…" not in text.getvalue()


def test_the_summary_shows_the_twin_beside_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(cli, "out_console", Console(file=text, width=80))
    cli._print_summary({**part(0.912), "twin": part(None)}, Path("out"), 61.0)
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert lines[0] == ["run", "twin"]
    assert ["accuracy", "91.2%", "—"] in lines


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_live_progress_cuts_no_word(columns: int) -> None:
    text = io.StringIO()
    console = Console(file=text, width=columns, force_terminal=True, color_system=None)
    with LiveDisplay(console) as shown:
        shown.show("snn", STATE)
        shown.show("twin", STATE)
    last = text.getvalue()
    assert "…" not in last
    for word in ("finished", "modelled", "twin", "60/60", "151.3"):
        assert word in last

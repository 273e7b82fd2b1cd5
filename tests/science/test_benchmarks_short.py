"""Short forms of the benchmarks: they run, say what they promise, and certify nothing that is false."""

from __future__ import annotations

import importlib
import logging
import re

import pytest

FORMS = {
    "quantized": ["--short"],
    "images": ["--short"],
    "sent": ["--cases", "direct-1", "--sent", "fp32", "int8", "--seeds", "2"],
    "conv": ["one-membrane-T5", "--seeds", "1"],
    "frames": ["1x8", "2x4", "--seeds", "1"],
    "controls": ["rate-1", "--tampers", "noise", "model of another seed", "surrogate", "--budget", "0.3"],
}


@pytest.fixture(autouse=True)
def _logging_again():
    """A benchmark is a program of its own and may silence the log; the tests after it hear again."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", FORMS)
def test_short_form(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, *FORMS[name]])
    importlib.import_module(f"tests.benchmarks.{name}").main()
    told = capsys.readouterr().out
    assert len(told.splitlines()) >= len([word for word in FORMS[name] if not word.startswith("--")]) / 2
    assert "FALSE" not in told
    for count in re.findall(r"\bfalse(?:_certificates)? (\d+)", told):
        assert count == "0", told

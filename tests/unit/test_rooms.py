"""The house: names, laws of import, room descriptions, the size of the README."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("contract", "hardware", "edge_client", "server", "attack", "deploy")


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_ours_alone(room: str) -> None:
    """No other distribution on this machine brings a package of the same name."""
    assert set(importlib.metadata.packages_distributions().get(room, ["spikeleak"])) == {"spikeleak"}


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_each_room_has_a_short_description(room: str) -> None:
    lines = (ROOT / room / "README.md").read_text().splitlines()
    assert 5 <= len(lines) <= 40


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


LIGHT = (
    "edge_client",
    "edge_client.app",
    "contract.messages",
    "contract.topics",
    "contract.frames",
    "contract.task",
    "contract.codecs",
    "contract.encodings",
    "contract.metrics",
    "contract.models.layout",
    "contract.models.activity",
    "contract.models.operations",
    "contract.link",
)
HEAVY = (
    "torch",
    "snntorch",
    "scipy",
    "pandas",
    "matplotlib",
    "skimage",
    "sklearn",
    "mlxtend",
    "contract.citations",
    "hardware.bibliography",
    "server",
    "attack",
    "deploy",
)


@pytest.mark.parametrize("module", LIGHT)
def test_what_runs_on_a_board_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_nothing_is_pickled_or_evaluated() -> None:
    """No room imports pickle or calls eval, exec, or torch.load."""
    for path in [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Call):
                names.append(ast.unparse(node.func))
            assert not {"pickle", "dill", "joblib", "eval", "exec", "torch.load", "np.load(allow_pickle"} & set(
                names
            ), path


def test_the_layers_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout

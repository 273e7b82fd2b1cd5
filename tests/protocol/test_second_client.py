"""SPEC.md is enough: a client that shares no code with this project takes part in a run beside an ordinary device."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from contract.codecs import decode_tensors
from contract.messages import Update, unpack
from server.ledger import FILE_NAME, Ledger
from server.model import parameters_of
from tests.conftest import ROOT

CLIENT = Path(__file__).with_name("second_client.py")
ALLOWED = {"hashlib", "os", "select", "socket", "struct", "sys", "time", "zlib"}
ROUNDS = 2
SERVER = """
run = "wire"
directory = "{directory}"
clients = 2
evaluate = false
drain_s = 3.0
[link]
{link}
[task]
dataset = "digits"
[task.encoding]
steps = 2
[task.model]
hidden = [8]
[[schedule]]
rounds = {rounds}
batch_size = 8
learning_rate = 0.1
server_momentum = 0.5
deadline_s = 60.0
"""
DEVICE = """
run = "wire"
node = "ordinary"
directory = "{directory}"
shard = 0
shards = 2
seed = 1
[link]
{link}
"""


def test_it_is_short_and_imports_nothing_of_ours():
    source = CLIENT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    imported = set()
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, ast.ImportFrom), ast.unparse(node)
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    assert imported == ALLOWED, f"{imported ^ ALLOWED}"
    assert sys.stdlib_module_names >= ALLOWED


@contextmanager
def process(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child whose output goes to a file; killed at the end where it still lives."""
    with log.open("wb") as output:
        child = subprocess.Popen([sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


@pytest.mark.slow
def test_a_client_of_one_page_takes_part_in_two_rounds(running_broker, tmp_path):
    link = running_broker.link
    words = f'host = "{link.host}"\nport = {link.port}\nprotocol = "{link.protocol}"'
    for name, text in (("server", SERVER), ("ordinary", DEVICE)):
        filled = text.format(directory=tmp_path / name, link=words, rounds=ROUNDS)
        (tmp_path / f"{name}.toml").write_text(filled, encoding="utf-8")
    server = ("-m", "deploy.cli", "server", str(tmp_path / "server.toml"))
    ordinary = ("-m", "edge_client", str(tmp_path / "ordinary.toml"))
    second = ("-I", str(CLIENT), link.host, str(link.port), "wire", "second")
    with (
        process(tmp_path / "server.log", *server) as first,
        process(tmp_path / "ordinary.log", *ordinary) as other,
        process(tmp_path / "second.log", *second) as ours,
    ):
        logs = lambda: "\n".join(path.read_text() for path in tmp_path.glob("*.log"))  # noqa: E731
        for child in (first, ours, other):
            try:
                assert child.wait(120) == 0, logs()
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{child.args} does not end: {logs()}") from None
    check_result(tmp_path, (tmp_path / "second.log").read_text().split("\n"))


def check_result(tmp_path: Path, said: list[str]) -> None:
    words = [line.split(" ")[0] for line in said if line]
    assert words.count("missing") >= 1, f"the forgotten chunk was not asked for: {said}"
    assert words.count("admitted") == 2 * ROUNDS, f"{ROUNDS} updates and their reports are to be admitted: {said}"
    with Ledger.open_read(tmp_path / "server" / FILE_NAME) as ledger:
        rows = ledger.rows("SELECT * FROM updates ORDER BY round, node")
        assert [(r["round"], r["node"], r["status"]) for r in rows] == [
            (round_, node, "admitted") for round_ in range(1, ROUNDS + 1) for node in ("ordinary", "second")
        ]
        entered = ledger.rows("SELECT version, uid FROM aggregated")
        assert sorted((r["version"], r["uid"]) for r in entered) == sorted((r["round"], r["uid"]) for r in rows)
        models = {r["version"]: parameters_of(r["object"]) for r in ledger.rows("SELECT * FROM models")}
        for row in rows:
            if row["node"] == "second":
                update, views = unpack(row["object"], Update)
                for name, found in decode_tensors(update.tensors, views).items():
                    wanted = (0.01 * models[row["round"] - 1][name].astype(np.float64)).astype(np.float32)
                    assert np.array_equal(found, wanted), f"{name} of round {row['round']}"
        reports = ledger.rows("SELECT provenance, reason FROM energy WHERE node = 'second'")
        assert [tuple(r) for r in reports] == [("unavailable", "no meter")] * ROUNDS
        assert ledger.value("SELECT SUM(frames_bad) FROM sessions") == 0, "SPEC.md was followed to the letter"

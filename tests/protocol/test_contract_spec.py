"""SPEC.md says what the code does: topics, records with their fields, codecs, header, limits."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import msgspec
import pytest

import contract
from contract import frames, messages, topics
from contract.codecs import CODECS
from contract.codecs.layout import LARGEST_COUNT
from contract.secure import SecureAggregation
from contract.task import (
    EncodingSpec,
    ModelSpec,
    NeuronSpec,
    OwnModel,
    ParameterSpec,
    PartitionSpec,
    RoundPlan,
    TaskSpec,
    task_hash,
)
from hardware.energy import EnergyReading

SPEC = (Path(contract.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
ROWS = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in SPEC.splitlines() if line.startswith("| ")]
FIRST = {row[0].strip("`"): row for row in ROWS}
PARTS = {
    "Tensor": messages.TensorRecord,
    "Graph": messages.GraphRecord,
    "Plan": RoundPlan,
    "Secure": SecureAggregation,
    "Keys": messages.KeyPair,
    "MaskingCost": messages.MaskingCost,
    "Operations": messages.Operations,
    "Phase": messages.PhaseEnergy,
    "Reading": EnergyReading,
    "Result": messages.AttackResult,
    "AttackScore": messages.AttackScore,
    "Task": TaskSpec,
    "Partition": PartitionSpec,
    "Encoding": EncodingSpec,
    "Network": ModelSpec,
    "OwnNetwork": OwnModel,
    "Parameter": ParameterSpec,
    "Neuron": NeuronSpec,
}
RECORDS = {record.__name__: record for record in messages.MESSAGES} | PARTS


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_field_of_every_record_and_no_other(name):
    said = re.findall(r"`([a-z0-9_]+)`", FIRST[name][1].replace("index into `tensors`", ""))
    assert said == [field.encode_name for field in msgspec.structs.fields(RECORDS[name])]


def test_every_topic_in_its_form():
    blanks = {"node": "{id}", "round": "{round}", "uid": "{uid}", "index": "{i}", "version": "{version}"}
    blanks["graph"] = "{name}"
    for kind, form in ((kind, form) for kind, forms in topics._FORMS.items() for form in forms):
        levels = [level[1:] if level.startswith("=") else blanks[level] for level in form]
        assert "/".join([kind, *levels]) in FIRST
    assert f"{topics.ROOT}/{{run}}/" in SPEC


def test_every_codec():
    assert set(CODECS) <= set(FIRST)


def test_header_table_adds_up():
    rows = [row for row in ROWS if row[0].isdigit()]
    sizes = {int(row[0]): row[1] for row in rows}
    offset = 0
    for start, size in sorted(sizes.items()):
        assert start == offset
        if size == "…":
            break
        offset += int(size)
    assert offset == frames.HEADER.size
    assert f"magic `{frames.MAGIC.decode()}`" in SPEC
    assert f"version, {frames.VERSION}" in SPEC


def test_limits():
    sizes = (frames.CHUNK_BYTES, frames.MAX_OBJECT_BYTES, frames.MAX_CHUNKS)
    for limit in (*sizes, messages.MAX_HEAD_BYTES, messages.MAX_REPORT_BYTES, messages.MAX_IMAGES_BYTES):
        assert f"{limit:,}" in SPEC
    inbox = pytest.importorskip("server.inbox")
    assert f"the server at {inbox.HELD_BYTES:,} bytes for all devices" in SPEC
    assert LARGEST_COUNT == 2**31
    assert "at most 2^31" in SPEC


def test_every_refusal():
    admission = pytest.importorskip("server.admission")
    said = SPEC[SPEC.index("The first word of `reason`") :].split("So an update")[0]
    assert re.findall(r"`([a-z]+)`", said)[1:] == list(admission.CODES)


def test_acknowledgement_times():
    client = pytest.importorskip("edge_client.client")
    assert (
        f"{client.ACK_TIMEOUT_S:g} s after the first time, then doubling up to {client.LONGEST_TIMEOUT_S:g} s" in SPEC
    )


def test_task_hash_as_described():
    task = TaskSpec(model=ModelSpec(weight_bits=None))
    plain = json.dumps(msgspec.to_builtins(task), sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(plain.encode()).hexdigest() == task_hash(task)

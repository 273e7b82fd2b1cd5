"""An asynchronous round in which parties are killed: nothing is lost, nothing counts twice, the model follows."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from contract.codecs import decode_tensors
from contract.messages import Update, unpack
from deploy import broker
from server.accounting import count_updates
from server.aggregation import FedBuff
from server.ledger import Ledger
from server.model import parameters_of
from tests.benchmarks import asynchronous
from tests.faults.chaos import claims, witness
from tests.faults.chaos.history import read
from tests.faults.chaos.parties import DEVICES, ROUND, SERVER, Federation, federation
from tests.faults.chaos.zygote import Zygote

FEDBUFF = FedBuff(buffer=3, versions=11)
SCHEDULE = (replace(ROUND, server_momentum=0.0, deadline_s=20.0, fedbuff=FEDBUFF), replace(ROUND, rounds=2))
DEATHS = {
    SERVER: [
        "aggregate-before:2",
        "aggregate-inside:2",
        "checkpoint-after:2",
        "journal-after:4",
        "ack-after:5",
        "announced:9",
    ],
    DEVICES[0]: ["spool-after-rename:2", "chunks-sent:3", "ack-before-delete:2"],
    DEVICES[1]: ["train-after:4", "ack-after-delete:3"],
}


def test_kills_in_mid_round_lose_nothing_and_the_models_follow_from_the_ledger(tmp_path: Path) -> None:
    left = {name: iter(deaths) for name, deaths in DEATHS.items()}

    def kill_at(name: str) -> str | None:
        return next(left.get(name, iter(())), None)

    with (
        closing(Zygote(tmp_path / "zygote.log")) as zygote,
        broker.serve(broker.BrokerSection(kind="auto"), tmp_path) as running,
        federation(tmp_path / "run", running.link, SCHEDULE, zygote) as parties,
    ):
        parties.run(kill_at, timeout_s=150)
    assert sum(parties.kills.values()) >= len(DEATHS[SERVER]), parties.kills
    folders = {name: settings.directory for name, settings in parties.devices.items()}
    history = read(parties.ledger, folders, witness.read(parties.folder / "witness.jsonl"))
    faults = [
        *claims._acknowledged(history),
        *claims._made_by_devices(history),
        *(fault for node in DEVICES for fault in claims._delivered(history, node)),
        *claims._summary(history),
    ]
    claims.require(faults)
    require_versions(parties)


def require_versions(parties: Federation) -> None:
    """Every version of the asynchronous round again, from its updates in the order of their admission."""
    with Ledger.open_read(parties.ledger) as ledger:
        counted = count_updates(ledger)
        assert (counted["lost"], counted["duplicated"]) == (0, 0)
        rows = ledger.rows("SELECT * FROM updates WHERE status = 'admitted' AND round = 1 ORDER BY sequence")
        entered = ledger.rows("SELECT version, uid FROM aggregated WHERE round = 1")
        assert Counter(row["uid"] for row in entered) == Counter(row["uid"] for row in rows)
        members: dict[str, int] = {row["uid"]: row["version"] for row in entered}
        order = [members[row["uid"]] for row in rows]
        assert order == sorted(order), "versions are made in the order of admission"
        assert ledger.value("SELECT MAX(version) FROM models WHERE round = 1") == FEDBUFF.versions
        for version in range(1, FEDBUFF.versions + 1):
            mine = [unpack(row["object"], Update) for row in rows if members[row["uid"]] == version]
            before, after = (
                parameters_of(ledger.value("SELECT object FROM models WHERE version = ?", v))
                for v in (version - 1, version)
            )
            assert {n: v.tobytes() for n, v in after.items()} == {
                n: v.tobytes() for n, v in moved(before, mine, version - 1).items()
            }, f"version {version}"


def moved(before, updates, version: int) -> dict[str, np.ndarray]:
    total, samples = {}, sum(update.samples for update, _ in updates)
    for update, views in sorted(updates, key=lambda pair: pair[0].uid):
        factor = (1 + version - update.model_version) ** -0.5
        for name, value in decode_tensors(update.tensors, views).items():
            plain = value.astype(np.float64)
            term = (plain if factor == 1 else factor * plain) * update.samples
            total[name] = total[name] + term if name in total else term
    return {n: (v.astype(np.float64) - total[n] / samples).astype(np.float32) for n, v in before.items()}


def test_fedbuff_takes_as_many_updates_in_less_than_half_the_time_beside_a_slow_device() -> None:
    found = asynchronous.main(["--short"])
    (waiting,), (buffered,) = (found[mode] for mode in asynchronous.MODES)
    assert waiting.updates == buffered.updates
    assert min(waiting.slower, buffered.slower) > 8, "one device is ten times slower, up to the others' own time"
    assert waiting.taken_s / buffered.taken_s >= 2
    assert min(waiting.accuracy, buffered.accuracy) > 0.5
    assert buffered.idle_s < waiting.idle_s / 2
    assert (waiting.staleness, buffered.staleness > 0) == (0, True)

"""Two domains from end to end in short; `python -m tests.benchmarks.domains` is the long form, of all of them."""

from __future__ import annotations

import pytest

from contract.datasets import SOURCES, check_encoding, check_partition
from deploy.study import load_study
from tests.benchmarks import domains

PRESETS = {name: domains.preset(name, short=False) for name in domains.DOMAINS}
SETS = {study.task.dataset for study in PRESETS.values()}


def test_every_official_set_has_a_preset():
    assert {"mnist", "fashion_mnist", "nmnist", "dvs_gesture", "fsdd", "speech_commands", "shd", "faces"} <= SETS
    assert {"cifar10_5k", "uci_har_test", "ecg5000_train", "breast_cancer"} <= SETS
    for study in PRESETS.values():
        info = SOURCES[study.task.dataset].info
        check_encoding(study.task.encoding, info)
        check_partition(study.task.partition, info)
        assert [entry.kind for entry in study.schedule] == ["train", "audit"]
        assert study.attack.attacks is None, "the whole ladder"
        assert not info.users or study.clients <= info.users


@pytest.mark.parametrize(("domain", "least"), [("ecg5000", 0.7), ("breast_cancer", 0.75)])
def test_a_domain_from_end_to_end(domain, least, tmp_path, monkeypatch):
    if not domains.available(domain):
        pytest.skip(f"SPIKELEAK_DATA holds no files of {domain!r}")
    monkeypatch.setenv("SPIKELEAK_DATA", str(domains.data_dir()))  # so that it is as before afterwards
    domains.writable_data(tmp_path / "data")
    row = domains.measure(domain, tmp_path / "out", short=True)
    assert row.unscored == 0
    assert row.accuracy > max(least, row.chance)
    assert row.regression > 0.9
    ran = load_study(domains.STUDIES / "domains" / f"{domain}.toml").schedule[-1].clients
    assert sum(row.verdicts.values()) == ran * domains.LADDER
    assert row.worst_db is not None
    assert row.line().startswith(domain)

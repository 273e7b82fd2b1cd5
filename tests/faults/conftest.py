"""A small federation in which nothing goes wrong, run once for the tests that look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy import broker
from tests.faults.chaos.client_kill import schedule
from tests.faults.chaos.parties import DEVICES, SERVER, Federation, federation
from tests.faults.chaos.zygote import Zygote


@pytest.fixture(scope="session")
def calm_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Finished; `passed-server` and `passed-client` in its folder name the kill points that were passed."""
    folder: Path = tmp_path_factory.mktemp("calm")
    with (
        closing(Zygote(folder / "zygote.log")) as zygote,
        broker.serve(broker.BrokerSection(kind="auto"), folder) as running,
        federation(folder / "run", running.link, schedule(16), zygote) as parties,
    ):
        for name in (SERVER, *DEVICES):
            kind = "server" if name == SERVER else "client"
            parties.start(name, passed=parties.folder / f"passed-{kind}")
        parties.finish(timeout_s=90)
        yield parties

"""The server killed at every step of a round, over and over in one run, held against the same run without a fault.

Devices name their updates after device and round alone here, so that a round which is opened again gets the very update
that it would have got: both runs then admit the same updates, and their last models must be the same bytes.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from deploy import broker
from tests.faults.chaos import Outcome
from tests.faults.chaos.client_kill import in_turn
from tests.faults.chaos.history import History
from tests.faults.chaos.parties import ROUND, SERVER, Federation, federation
from tests.faults.chaos.points import SERVER as POINTS
from tests.faults.chaos.proof import figures, model_sha256, prove
from tests.faults.chaos.zygote import Zygote

TURNS = (*(f"{name}:1" for name in POINTS), "ack-after:2", "publish-between:4", "journal-after:3", "mirror-between:3")
"""Each point in turn, and some at a later passage: a life publishes the last three models when it begins."""
_ROUNDS_A_KILL = 0.7
_SECONDS_A_KILL = 3.0


def run(count: int, folder: Path) -> Outcome:
    """See `tests.faults.chaos.Run`. Strikes at least once at each point."""
    count = max(count, len(TURNS))
    rounds = 4 + int(count * _ROUNDS_A_KILL)
    with closing(Zygote(folder / "zygote.log")) as zygote:
        calm, whole = _lived(folder / "calm", rounds, zygote, 0)
        struck, told = _lived(folder / "struck", rounds, zygote, count)
    kills = struck.kills.total()
    assert kills >= count, f"the run was over after {kills} of {count} kills: {dict(struck.kills)}"
    missed = set(POINTS) - set(struck.kills)
    assert not missed, f"no kill struck at {sorted(missed)}"
    _same(whole, told)
    one, other = model_sha256(calm), model_sha256(struck)
    assert one == other, f"the last model is {other}; without a fault it is {one}"
    return Outcome(
        injected=kills, figures=f"{len(struck.kills)} points; {figures(told)}; final model as without a fault"
    )


def _lived(folder: Path, rounds: int, zygote: Zygote, kills: int) -> tuple[Federation, History]:
    """A run of its own with a broker of its own: what is retained of one would end the other."""
    folder.mkdir()
    plan = (replace(ROUND, rounds=rounds),)
    with (
        broker.serve(broker.BrokerSection(kind="mosquitto"), folder) as running,
        federation(folder, running.link, plan, zygote, ("--name-by-round",)) as parties,
    ):
        kill_at = in_turn(parties, TURNS, kills, (SERVER,))
        parties.run(kill_at, timeout_s=60 + rounds + _SECONDS_A_KILL * kills)
        return parties, prove(parties)


def _same(whole: History, told: History) -> None:
    """Both runs admitted the same updates.

    Raises:
        AssertionError: Names the first that differ.
    """
    one, other = ({(row.uid, row.status, row.sha256) for row in found.updates} for found in (whole, told))
    assert one == other, f"{len(one ^ other)} updates differ from the run without a fault: {sorted(one ^ other)[:3]}"

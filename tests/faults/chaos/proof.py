"""All that must hold of a federation after its last party has left, whatever was done to it."""

from __future__ import annotations

from server.ledger import Ledger
from tests.faults.chaos import claims, history, recomputation, witness
from tests.faults.chaos.parties import Federation


def prove(federation: Federation) -> history.History:
    """Checks that the run is finished and its history unbroken; gives the history.

    Raises:
        AssertionError: Says what is wrong, in words.
    """
    with Ledger.open_read(federation.ledger) as ledger:
        outcome = ledger.meta("outcome")
    assert outcome == "finished", f"the run's outcome is {outcome!r}: {federation.last_words('server')}"
    folders = {name: settings.directory for name, settings in federation.devices.items()}
    told = history.read(federation.ledger, folders, witness.read(federation.folder / "witness.jsonl"))
    claims.require(
        [
            *claims.violations(told),
            *recomputation.models(federation.ledger),
            *(
                fault
                for settings in federation.devices.values()
                for fault in recomputation.updates(told, federation.ledger, settings)
            ),
        ]
    )
    return told


def model_sha256(federation: Federation) -> str:
    """SHA-256 of the last model's object."""
    with Ledger.open_read(federation.ledger) as ledger:
        return str(ledger.value("SELECT sha256 FROM models ORDER BY version DESC LIMIT 1"))


def figures(told: history.History) -> str:
    """What a history came to, in words."""
    verdicts = [row.status for row in told.updates]
    acknowledged = {heard.uid for heard in told.heard if heard.said == "admitted"}
    return (
        f"{len(told.rounds)} rounds, {verdicts.count('admitted')} updates admitted, {verdicts.count('refused')} "
        f"refused; {len(acknowledged)} acknowledgements seen, 0 lost, 0 counted twice"
    )

"""`spikeleak cite`: the works behind what a run, or any run of a study, used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from attack.citations import CITATIONS as OF_ATTACKS
from attack.citations import CLAIM
from contract.citations import CITATIONS as OF_CONTRACT
from contract.datasets import task_info
from contract.datasets.partition import CITED as OF_PARTITION
from contract.encodings import CITED as OF_ENCODINGS
from contract.errors import ConfigurationError
from contract.metrics import CITED as OF_SCORES
from contract.models.operations import CITED as OF_COUNTING
from contract.task import TaskSpec
from hardware.bibliography import Citation, catalogue, note
from hardware.citations import CITATIONS as OF_CONSTANTS
from hardware.citations import works_behind
from server.aggregation.citations import CITATIONS as OF_ROUNDS
from server.ledger import FILE_NAME, Ledger
from server.privacy import CITED as OF_ACCOUNTING
from server.report.constants import models_of
from server.settings import ScheduleEntry

WORKS: dict[str, Citation] = catalogue(
    OF_ATTACKS.values(), OF_ROUNDS.values(), OF_CONTRACT.values(), OF_CONSTANTS.values()
)
"""Every work that any room cites, by its key."""
_ATTACKS = "SELECT DISTINCT attack FROM reconstructions WHERE verdict != 'refused'"
_READINGS = """
    SELECT DISTINCT source, provenance FROM energy WHERE source LIKE 'model:%'
    UNION SELECT DISTINCT source, provenance FROM masking_costs WHERE source LIKE 'model:%'
"""


class _Settings(msgspec.Struct, frozen=True):
    """What is read of a ledger's settings."""

    schedule: tuple[ScheduleEntry, ...] = ()
    task: TaskSpec | None = None


def citations(directory: Path | None) -> list[Citation]:
    """Works behind a run, or any run of a sweep; without a folder all that anything here cites.

    Attacks that were run and what these rest on, rules and codecs of its rounds, accounting, network, data, encoding,
    scores, counting, and the sources of the constants that its modelled joules rest on. A source that is not known in
    BibTeX stands as a note.

    Args:
        directory: Folder of a run or of a sweep.

    Raises:
        ConfigurationError: The folder holds neither.
    """
    if directory is None:
        return list(WORKS.values())
    runs = [path for pattern in ("", "runs/*/") for path in sorted(directory.glob(f"{pattern}{FILE_NAME}"))]
    if not runs:
        raise ConfigurationError(f"{directory}: holds no {FILE_NAME}, so no run; name the --out folder of one")
    keys: set[str] = set()
    sources: dict[str, Citation] = {}
    for run in runs:
        for path in (run, run.parent / "twin" / FILE_NAME):
            if path.exists():
                with Ledger.open_read(path) as ledger:
                    keys |= _keys(ledger)
                    sources |= {work.key: work for work in _behind_joules(ledger, run.parent)}
    others = [work for key, work in sources.items() if key not in WORKS]
    return [*(work for key, work in WORKS.items() if key in keys or key in sources), *others]


def _keys(ledger: Ledger) -> set[str]:
    """Keys of the works behind one ledger, but for its joules."""
    from attack.methods import KNOWN  # noqa: PLC0415 - brings torch

    settings = msgspec.json.decode(ledger.meta("settings") or "{}", type=_Settings)
    attacks = [row["attack"] for row in ledger.rows(_ATTACKS)]
    methods = [KNOWN[name] for name in attacks if name in KNOWN]
    keys = {"spikeleak", *(work.key for method in methods for work in (method.citation, *method.also))}
    keys.update(key for entry in settings.schedule for key in entry.cited)
    if settings.task is not None:
        keys.update(_of_task(settings.task))
        if attacks and settings.task.model.family == "snn":
            keys.add(CLAIM)
    noisy = any(entry.noise_multiplier for entry in settings.schedule)
    if noisy and _any(ledger, "updates", "epsilon IS NOT NULL"):
        keys.update(OF_ACCOUNTING)
    if _any(ledger, "operations", "TRUE"):
        keys.update(OF_COUNTING)
    keys.update(_of_scores(ledger))
    return keys


def _of_task(task: TaskSpec) -> Iterator[str]:
    """Keys of the works behind data, encoding and network."""
    from contract.models import neurons, quantization, surrogates  # noqa: PLC0415 - bring torch

    yield from task_info(task).cited
    yield from OF_PARTITION[task.partition.kind]
    yield from OF_ENCODINGS[task.encoding.kind]
    model = task.model
    if model.own is not None:  # whose neurons and grids only its file knows
        return
    if model.weight_bits is not None:
        yield from (*quantization.CITED[model.weight_bits], *quantization.ROUNDING_CITED)
    if model.family == "snn":
        yield from (*neurons.CITED, *surrogates.SURROGATES[task.neuron.surrogate].cited)
        if model.membrane_bits is not None:
            yield from quantization.ROUNDING_CITED


def _of_scores(ledger: Ledger) -> Iterator[str]:
    for table, columns in (("scores", OF_SCORES), ("noise_scores", ("ssim",))):
        for column in columns:
            if _any(ledger, table, f"{column} IS NOT NULL"):
                yield from OF_SCORES[column]


def _any(ledger: Ledger, table: str, condition: str) -> bool:
    return ledger.value(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1") is not None  # noqa: S608 - ours


def _behind_joules(ledger: Ledger, directory: Path) -> Iterable[Citation]:
    """Sources of the constants that modelled readings rest on, as the report's table of constants has them."""
    readings = [(row["source"], row["provenance"]) for row in ledger.rows(_READINGS)]
    modelled = {source for source, provenance in readings if provenance == "modelled"}
    models, missing = models_of({source for source, _ in readings}, directory)
    for model in models:
        for source in modelled & model.rests_on.keys():
            for constant in model.rests_on[source]:
                yield from works_behind(constant.source)
    for name in missing:
        if f"model:{name}" in modelled:
            text = f"{name}.toml, from which joules of {directory.name} were modelled"
            yield note("Energy profile whose constants are not at hand", text)

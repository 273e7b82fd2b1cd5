"""The run in plain sentences, each computed from its figures and silent about nothing that is missing."""

from __future__ import annotations

import math

from contract.metrics import PSNR_CAP_DB
from server.report.controls import OPTIMISATION, Control, mean_image_level
from server.report.data import KIND_TITLES, KINDS, Family, ReportData, RoundKind, ScoreRow
from server.report.energy import gaps, modelled_j, totals
from server.report.quantities import count, energy, percent
from server.report.trials import median, select, worst_by_update, worst_case

EXACT_DB = 100.0
CLOSE_DB = 40.0
MARGIN_DB = 3.0
CONTRAST_DB = 20.0


def conclusion(data: ReportData, checked: tuple[Control, ...]) -> tuple[str, ...]:
    """Paragraphs for the top of the page.

    Args:
        data: The run.
        checked: Its controls.
    """
    sentences = [
        *(_leakage(family) for family in data.families),
        _contrast(data),
        _learning(data),
        _cost(data),
        _controls(checked),
        _completeness(data),
    ]
    return tuple(text for text in sentences if text)


def last_accuracy(family: Family) -> float | None:
    """Held-out accuracy after the last evaluated round."""
    return next((row.accuracy for row in reversed(family.rounds) if row.accuracy is not None), None)


def _learning(data: ReportData) -> str:
    known = [(f.title, accuracy) for f in data.families if (accuracy := last_accuracy(f)) is not None]
    without = f" There is no twin to compare with: {data.twin_missing}." if data.twin is None else ""
    if not known:
        reason = next((f": {f.unevaluated}" for f in data.families if f.unevaluated), "")
        return f"No accuracy on held-out samples was computed{reason}." + without
    rounds = sum(row.plan.kind == "train" for row in data.snn.rounds)
    parts = [f"the {title} labels {percent(accuracy)}" for title, accuracy in known]
    return _sentence(f"after {rounds} training rounds {', '.join(parts)} of the held-out samples correctly") + without


def _cost(data: ReportData) -> str:
    readings = [row for family in data.families for row in family.energy]
    if not readings:
        return "No device reported what its updates cost; this page has no figure for energy."
    parts = [
        f"the {family.title}'s updates cost {energy(joules)} ({_per_update(family, joules)})"
        for family in data.families
        if (joules := modelled_j(family)) is not None
    ]
    text = f"By the energy model {', '.join(parts)}." if parts else "The energy model gave no figure."
    found = {total.provenance for total in totals(readings)}
    if "measured" in found:
        return text + " Measured figures stand beside the modelled ones and are never added to them."
    reasons = sorted({gap.reason for gap in gaps(readings) if not gap.source.startswith("model")})
    return text + " No joule on this page was measured" + (f": {reasons[0]}." if len(reasons) == 1 else ".")


def _per_update(family: Family, joules: float) -> str:
    updates = len({(row.node, row.round) for row in family.energy if row.reading.energy_j is not None})
    return f"{energy(joules / updates)} per update, n = {updates}" if updates else "no update counted"


def _leakage(family: Family) -> str:
    found = [text for kind in reversed(KINDS) if (text := _leakage_of(family, kind))]
    if not found:
        return f"No update of the {family.title} was attacked and scored: this run says nothing about its leakage."
    return " ".join(found)


def _leakage_of(family: Family, kind: RoundKind) -> str:
    rows = select(family, kind)
    return " ".join(filter(None, (_images_of(family, kind, rows), _spikes_of(rows)))) if rows else ""


def _spikes_of(rows: list[ScoreRow]) -> str:
    """What became of the spike frames: where the coding blurs the image, PSNR alone would hide the leak."""
    best: dict[str, float] = {}
    for row in rows:
        if row.score.verdict != "refused":
            best[row.update] = max(best.get(row.update, 0.0), row.score.frames_exact or 0.0)
    if not any(best.values()):
        return ""
    whole = sum(share == 1.0 for share in best.values())
    bounds = {row.update: row.score.rate_bound_db for row in rows if row.score.rate_bound_db is not None}
    bound = median(list(bounds.values()))
    limit = (
        "" if bound is None else f"; the image is no closer because the true spikes give no more than {bound:.1f} dB"
    )
    return _sentence(
        f"every spike that went into the network is found bit for bit in {whole} of {len(best)} of them "
        f"({percent(sum(best.values()) / len(best))} of all true frames){limit}"
    )


def _images_of(family: Family, kind: RoundKind, rows: list[ScoreRow]) -> str:
    best = worst_by_update(rows)
    whose = f"the {family.title}'s {kind_adjective(kind)} updates ({_samples(rows)})"
    worst = worst_case(rows)
    if worst is None:
        return f"From {whose} no attack got an image; n = {len(best)}."
    close = sum(value >= CLOSE_DB for value in best.values())
    spread = f"{close} of {len(best)} scored updates reach {CLOSE_DB:.0f} dB or more"
    ties = f" ({' and '.join(worst.ties)} as much)" if worst.ties else ""
    by = f"the worst of all attacks, {worst.attack}{ties},"
    if worst.psnr_db >= PSNR_CAP_DB:
        return _sentence(f"{whose} give inputs away: {by} rebuilds one without any error; {spread}")
    if worst.psnr_db >= EXACT_DB:
        return _sentence(
            f"{whose} give inputs away: {by} rebuilds one up to rounding, at {worst.psnr_db:.1f} dB; {spread}"
        )
    if worst.psnr_db >= CLOSE_DB:
        rebuilt = f"{by} rebuilds one so that the eye cannot tell, at {worst.psnr_db:.1f} dB"
        return _sentence(f"{whose} give inputs away: {rebuilt}; {spread}")
    return f"From {whose} {by} gets {worst.psnr_db:.1f} dB, {_beside_mean(worst.psnr_db, rows)}; {spread}."


def kind_adjective(kind: RoundKind) -> str:
    """`training` or `audit`."""
    return KIND_TITLES[kind].removesuffix(" rounds")


def _samples(rows: list[ScoreRow]) -> str:
    numbers = sorted({row.samples for row in rows})
    if numbers == [1]:
        return "one sample each"
    return f"{numbers[0]} samples each" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} samples each"


def _beside_mean(psnr_db: float, rows: list[ScoreRow]) -> str:
    mean_db = mean_image_level(rows)
    if mean_db is None:
        return "with no mean image to hold it against"
    if psnr_db > mean_db + MARGIN_DB:
        return f"more than the mean image gives ({mean_db:.1f} dB) but not the input itself"
    much = "no more" if psnr_db <= mean_db else "little more"
    return f"{much} than the mean image gives ({mean_db:.1f} dB), a limit of these attacks, not of the leak"


def _contrast(data: ReportData) -> str:
    """Optimisation attacks beside the worst case on the main run's audit updates, and on the twin's."""
    worst = worst_case(select(data.snn, "audit"))
    best = _optimisation_best(data.snn)
    if worst is None or not best or worst.psnr_db - max(best.values()) < CONTRAST_DB:
        return ""
    reached = " and ".join(f"{_no_image_or(figure)} ({attack})" for attack, figure in best.items())
    twin = {} if data.twin is None else _optimisation_best(data.twin)
    there = max(twin.values(), default=-math.inf)
    on_twin = f"; on the {data.twin.title} they reach {there:.1f} dB" if data.twin and there >= CLOSE_DB else ""
    return (
        f"On the same audit updates of the {data.snn.title} the optimisation attacks get no further than {reached}"
        f"{on_twin}. That an optimisation fails is no evidence that an update is safe."
    )


def _optimisation_best(family: Family) -> dict[str, float]:
    """Highest PSNR of each optimisation attack that ran on an audit update; `-inf` where it gave no image."""
    best: dict[str, float] = {}
    for attack in OPTIMISATION:
        rows = [row for row in select(family, "audit", attack) if row.score.verdict != "refused"]
        if rows:
            best[attack] = max(worst_by_update(rows).values())
    return best


def _no_image_or(figure: float) -> str:
    return f"{figure:.1f} dB" if math.isfinite(figure) else "no image"


def _controls(checked: tuple[Control, ...]) -> str:
    ran = [control for control in checked if control.outcome != "not run"]
    bad = [control.name for control in ran if control.outcome != "pass"]
    if not ran:
        return "No control could be run: read the leakage figures with care."
    if bad:
        return f"{len(bad)} of {len(ran)} controls did not pass ({'; '.join(bad)}): read the leakage figures with care."
    missing = len(checked) - len(ran)
    return f"All {len(ran)} controls that ran passed" + (f"; {missing} could not be run." if missing else ".")


def _completeness(data: ReportData) -> str:
    parts = []
    for family in data.families:
        counts = family.counts
        trouble = [f"{count(n)} {word}" for n, word in ((counts.lost, "lost"), (counts.duplicated, "duplicated")) if n]
        if family.status != "finished":
            parts.append(f"the {family.title}'s run did not finish ({family.status})")
        if trouble:
            parts.append(f"updates of the {family.title}: {' and '.join(trouble)}")
        unscored = unscored_updates(family)
        if unscored:
            parts.append(f"{unscored} of {len(family.updates)} admitted updates of the {family.title} were not scored")
    return _sentence("; ".join(parts)) if parts else ""


def unscored_updates(family: Family) -> int:
    """Admitted updates on which no score came back."""
    scored = {row.update for row in family.scores}
    return sum(update.uid not in scored for update in family.updates)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."

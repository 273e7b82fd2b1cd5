"""Controls: does the instrument find a leak where there is one, and none where there is none?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from server.report.data import Family, ReportData, ScoreRow
from server.report.noise_level import noise_level
from server.report.quantities import decibel
from server.report.trials import finite, median, select, worst_by_update

Outcome = Literal["pass", "partly", "fail", "not run"]

RATIO_FP32_DB = 100.0
RATIO_DB = 60.0
TWIN_DB = 40.0
WRONG_SAMPLE_MARGIN_DB = 3.0
MEAN_IMAGE_DB = 25.0
CERTIFIED_DB = 40.0
"""Below it a certified image is no reconstruction. Codecs blur what is certified: int8 leaves 45 to 65 dB."""
RATIO = "ratio"
OPTIMISATION = ("dlg", "cosine")


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One control.

    Attributes:
        kind: `positive`: the leak is known to be there; `negative`: there is nothing to find.
        expected: What must be seen.
        observed: What was seen, with n.
    """

    name: str
    kind: Literal["positive", "negative"]
    outcome: Outcome
    expected: str
    observed: str


def controls(data: ReportData) -> tuple[Control, ...]:
    """All controls of a report; what could not be run says why."""
    return (
        _ratio(data.snn),
        _twin(data),
        *(_wrong_sample(family) for family in data.families),
        *(_mean_image(family) for family in data.families),
        *(_noise(family) for family in data.families),
        *(_certificates(family) for family in data.families),
    )


def _ratio(family: Family) -> Control:
    codecs = {r.plan.codec for r in family.rounds if r.plan.kind == "audit"}
    level_db = RATIO_FP32_DB if codecs <= {"fp32"} else RATIO_DB
    name = f"Ratio attack on the {family.title}"
    task = family.task
    if task is None or not family.spiking or task.encoding.kind != "direct" or task.model.kind != "fc":
        return _not_run(name, "positive", "it holds for a direct-coded, fully connected spiking network; this is none")
    bare = {r.round for r in family.rounds if r.plan.kind == "audit" and r.plan.secure is None}
    if not bare and any(r.plan.kind == "audit" for r in family.rounds):
        return _not_run(name, "positive", "under secure aggregation nobody sees the update of a single sample")
    rows = [r for r in select(family, "audit", RATIO) if r.samples == 1 and r.score.verdict != "refused"]
    rows = [row for row in rows if row.round in bare]
    expected = (
        f"at least {level_db:.0f} dB on audit updates of one sample sent as {', '.join(sorted(codecs)) or 'fp32'}"
    )
    return _reaching(name, expected, rows, level_db, f"no audit update of one sample was attacked by {RATIO!r}")


def _twin(data: ReportData) -> Control:
    name = "DLG or cosine attack on the ANN twin"
    if data.twin is None:
        return _not_run(name, "positive", data.twin_missing)
    rows = [row for a in OPTIMISATION for row in select(data.twin, "audit", a) if row.score.verdict != "refused"]
    expected = f"at least {TWIN_DB:.0f} dB by the better of the two on audit updates"
    return _reaching(name, expected, rows, TWIN_DB, "neither attack ran on an audit update of the twin")


def _reaching(name: str, expected: str, rows: list[ScoreRow], level_db: float, missing: str) -> Control:
    best = list(worst_by_update(rows).values())
    if not best:
        return _not_run(name, "positive", missing)
    reached = sum(value >= level_db for value in best)
    middle = median(best)
    assert middle is not None
    outcome: Outcome = "pass" if middle >= level_db else "partly" if reached else "fail"
    low, high = finite(min(best)), finite(max(best))
    observed = (
        f"{reached} of {len(best)} updates reach it; median {_shown(finite(middle))}, "
        f"range {_shown(low)} to {_shown(high)}"
    )
    return Control(name=name, kind="positive", outcome=outcome, expected=expected, observed=observed)


def _wrong_sample(family: Family) -> Control:
    name = f"Wrong sample, {family.title}"
    rows = [row for row in select(family, "audit") if row.score.wrong_sample_db is not None]
    wrong = [row.score.wrong_sample_db for row in rows if row.score.wrong_sample_db is not None]
    mean = [row.score.mean_image_db for row in rows if row.score.mean_image_db is not None]
    wrong_db, mean_db = median(wrong), median(mean)
    if wrong_db is None or mean_db is None:
        return _not_run(name, "negative", "no audit score carries it")
    outcome: Outcome = "pass" if wrong_db <= mean_db + WRONG_SAMPLE_MARGIN_DB else "fail"
    observed = (
        f"median {wrong_db:.1f} dB (largest {max(wrong):.1f}) over n = {len(wrong)} reconstructions; "
        f"mean image {mean_db:.1f} dB"
    )
    expected = (
        "a reconstruction held against a sample it was not made from is no closer than the mean image "
        f"(+{WRONG_SAMPLE_MARGIN_DB:.0f} dB)"
    )
    return Control(name=name, kind="negative", outcome=outcome, expected=expected, observed=observed)


def _mean_image(family: Family) -> Control:
    name = f"Mean image, {family.title}"
    by_update = {r.update: r.score.mean_image_db for r in select(family, "audit") if r.score.mean_image_db is not None}
    level = median(list(by_update.values()))
    if level is None:
        return _not_run(name, "negative", "no audit score carries it")
    outcome: Outcome = "pass" if level <= MEAN_IMAGE_DB else "fail"
    observed = f"median {level:.1f} dB (largest {max(by_update.values()):.1f}) over n = {len(by_update)} updates"
    expected = f"knowing only the average sample stays below {MEAN_IMAGE_DB:.0f} dB, far from a recovered input"
    return Control(name=name, kind="negative", outcome=outcome, expected=expected, observed=observed)


def _noise(family: Family) -> Control:
    name = f"Noise in place of an update, {family.title}"
    ran = [row for row in family.noise if row.verdict != "refused"]
    if not ran:
        return _not_run(name, "negative", "the attacker ran no attack on noise in this run")
    certified = sorted({row.attack for row in ran if row.verdict == "exact"})
    count = len({(row.update, row.seen) for row in ran})
    trials = f"{len(ran)} attacks on n = {count} noise update{'' if count == 1 else 's'}"
    told = f"{trials}: none certified" if not certified else f"{trials}: certified by {', '.join(certified)}"
    level = noise_level(family.noise, family.seen or family.scores)
    beside = "" if level.beside_db is None else f"; on the same updates as they were sent {level.beside_db:.1f} dB"
    observed = f"{told}. Best of them against the true samples: {level.text}{beside}"
    expected = "no attack certifies what it finds in Gaussian noise with an update's shapes, norms and codec"
    outcome: Outcome = "fail" if certified else "pass"
    return Control(name=name, kind="negative", outcome=outcome, expected=expected, observed=observed)


def _certificates(family: Family) -> Control:
    name = f"Certificates against the truth, {family.title}"
    certified = [row for row in family.seen or family.scores if row.score.verdict == "exact"]
    if not certified:
        return _not_run(name, "negative", "no attack certified anything")
    wrong = false_certificates(certified)
    attacks = f" ({', '.join(sorted({row.score.attack for row in wrong}))})" if wrong else ""
    observed = f"{len(wrong)} of n = {len(certified)} certificates are false{attacks}"
    expected = (
        f"every certified frame is a true one; every certified image is within {CERTIFIED_DB:.0f} dB of a true sample"
    )
    outcome: Outcome = "fail" if wrong else "pass"
    return Control(name=name, kind="negative", outcome=outcome, expected=expected, observed=observed)


def false_certificates(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Scores with verdict `exact` that the truth gives the lie.

    Where spike frames were recovered they decide: each certified spike has to be a true one; of what holds several
    devices, whose spikes one of them cannot tell, each of its own has to be there. Otherwise the best image
    has to reach `CERTIFIED_DB`; a certificate on labels alone has to have all of them right.
    """
    return [row for row in rows if row.score.verdict == "exact" and not _upheld(row)]


def _upheld(row: ScoreRow) -> bool:
    score = row.score
    if score.spike_precision is not None and row.seen != "update":
        return score.spike_recall == 1.0
    if score.spike_precision is not None:
        return score.spike_precision == 1.0
    if score.psnr_db is not None:
        return score.psnr_db >= CERTIFIED_DB
    return score.labels_right == row.samples


def _shown(value: float | None) -> str:
    return "no image" if value is None else f"{decibel(value)} dB"


def _not_run(name: str, kind: Literal["positive", "negative"], why: str) -> Control:
    return Control(name=name, kind=kind, outcome="not run", expected="—", observed=why)


def mean_image_level(rows: list[ScoreRow]) -> float | None:
    """Median PSNR of the mean image over some scores: what an attacker gets who knows only the average."""
    level = median([r.score.mean_image_db for r in rows if r.score.mean_image_db is not None])
    return None if level is None or math.isinf(level) else level

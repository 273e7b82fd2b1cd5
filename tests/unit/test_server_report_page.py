"""The page: well-formed, self-contained, safe against what devices say, and complete without its parts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from contract.messages import AttackScore
from hardware.energy import EnergyReading
from server.report import svg
from server.report.data import Counts, EnergyRow, Family, Refusal, ReportData, ScoreRow
from server.report.energy_bars import MOST_BARS, energy_panels
from server.report.glossary import GLOSSARY
from server.report.headline import tiles
from server.report.page import render
from server.report.round_charts import accuracy_chart
from tests.unit.test_server_report_synthetic import make_report

VOID = {"meta", "img", "br", "link", "hr", "input"}
EVIL = '<script>alert("x")</script>\'"><img src=http://evil.example/x onerror=alert(1)>&amp;{{ 7 * 7 }}'

replace = msgspec.structs.replace


def drawn_only(name: str, draw: svg.Draw, *, narrow: bool, size: tuple[float, float]) -> Markup:
    """Draws a chart without writing it, which takes a second."""
    draw(Figure(), narrow)
    return Markup("<svg></svg>")


class Page(HTMLParser):
    """Reads a page and holds every tag against its end tag."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag, f"</{tag}> does not close the innermost element"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def html() -> str:
    return render(make_report())


def bare(family: Family) -> Family:
    return Family(title=family.title, status="stopped in round 0")


def without(data: ReportData, **changes: object) -> ReportData:
    return replace(data, snn=replace(data.snn, **changes), twin=replace(data.twin, **changes))


def test_page_is_well_formed_and_starts_with_its_doctype(html: str) -> None:
    assert html.startswith("<!DOCTYPE html>")
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    pointed = {a["href"] for _, a in page.tags if (a.get("href") or "").startswith("#")}
    pointed |= set(re.findall(r"url\((#[^)]+)\)", html))
    assert pointed
    assert {f"#{name}" for name in ids} >= pointed


def test_page_loads_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    loading = [a.get(n) for _, a in page.tags for n in ("src", "href", "xlink:href", "data", "poster") if a.get(n)]
    assert loading
    assert all(str(address).startswith(("data:image/png;base64,", "#")) for address in loading)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    assert "@import" not in html
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", html))
    assert not re.findall(r"https?://", html)


def test_charts_take_their_colours_from_the_page(html: str) -> None:
    assert html.count('<div class="chart"') == 4
    assert html.count('<div class="wide">') == html.count('<div class="narrow">') == 4
    for stand_in in svg._VARIABLES:
        assert stand_in not in html
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): #(?!000000)[0-9a-f]{6}", drawings)
    assert "font-family" not in drawings
    assert "var(--s1)" in drawings


def test_the_same_run_gives_the_same_bytes(html: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accuracy_chart(make_report().families) in html
    monkeypatch.setattr(svg, "_render", drawn_only)
    assert render(make_report()) == render(make_report())


def test_page_stays_small(html: str) -> None:
    assert len(html.encode()) < 1_000_000


def test_every_headline_number_has_a_provenance_that_the_glossary_explains() -> None:
    for tile in tiles(make_report()):
        assert [line.who for line in tile.lines] == ["SNN", "ANN twin"]
        for line in tile.lines:
            assert line.badge in GLOSSARY
            assert (line.value == "—") == (line.badge == "unavailable")
            assert line.note


def test_every_energy_figure_stands_beside_its_provenance(html: str) -> None:
    rows = re.findall(r"<tr>(?:(?!</tr>).)*\u202f[mµ]?J</td>.*?</tr>", html, re.DOTALL)
    assert len(rows) > 10
    assert all(re.search(r'class="badge (modelled|measured|emulated)"', row) for row in rows)
    assert 'class="badge measured"' not in html


def test_n_and_interval_stand_beside_every_attack(html: str) -> None:
    words = Page(html).words
    for text in ("95 % interval, dB", "SNN, audit rounds 20 scored updates", "0 (+40 refused)", "labels only"):
        assert text in words


MISSING = {
    "no twin": lambda d: replace(d, twin=None, twin_missing="it was asked for but has not run"),
    "no scores": lambda d: without(d, scores=(), pictures=()),
    "no energy": lambda d: without(d, energy=(), operations=()),
    "only unavailable energy": lambda d: without(
        d, energy=tuple(row for row in d.snn.energy if row.reading.energy_j is None)
    ),
    "no accuracy": lambda d: without(d, rounds=tuple(replace(r, accuracy=None) for r in d.snn.rounds)),
    "no pictures": lambda d: without(d, pictures=()),
    "no counts": lambda d: without(d, counts=Counts(), bytes_up=None, wall_s=None),
    "no task": lambda d: without(d, task=None, task_hash=""),
    "no configuration": lambda d: replace(d, configuration="", versions=(), broker="", threat=(), constants=()),
    "no audit": lambda d: without(d, scores=tuple(r for r in d.snn.scores if r.kind == "train"), pictures=()),
    "every attack failed": lambda d: without(
        d, scores=tuple(replace(r, score=AttackScore(attack="dlg", verdict="failed")) for r in d.snn.scores)
    ),
    "nothing at all": lambda d: ReportData(name="empty", snn=bare(d.snn)),
    "nothing in both": lambda d: ReportData(name="empty", snn=bare(d.snn), twin=bare(d.twin)),
}


@pytest.mark.parametrize("change", MISSING.values(), ids=MISSING.keys())
def test_page_without_a_part_says_so(change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "_render", drawn_only)
    data = change(make_report())
    page = Page(render(data))
    assert "—" in page.words
    assert "None" not in page.words
    assert "nan" not in page.words.split()


def test_page_of_a_large_fleet_stays_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "_render", drawn_only)
    data = make_report(nodes=tuple(f"device-{index:03d}" for index in range(60)))
    text = render(data)
    words = Page(text).words
    assert len(text.encode()) < 1_000_000
    assert "60 devices" in words
    assert all(len(panel.joules) == MOST_BARS for panel in energy_panels(data.families))
    assert "80 more are in the ledger" in words


def test_missing_figures_are_dashes_with_a_reason_never_zero() -> None:
    data = ReportData(name="empty", snn=Family(title="SNN", status="no round was opened"))
    for tile in tiles(data):
        (line,) = tile.lines
        assert (line.value, line.badge) == ("—", "unavailable")
        assert line.note


def test_unfinished_and_unscored_runs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "_render", drawn_only)
    data = make_report()
    kept = tuple(row for row in data.snn.scores if row.update != data.snn.updates[0].uid)
    data = replace(data, snn=replace(data.snn, scores=kept, status="failed: no update in 5 openings"))
    words = Page(render(data)).words
    assert "1 of 60 admitted updates of the SNN were not scored" in words
    assert "SNN: 1 of 60 admitted updates have no score" in words
    assert "did not finish (failed: no update in 5 openings)" in words


def test_text_from_the_wire_cannot_become_markup() -> None:
    data = make_report(nodes=(EVIL, "device-1"))
    score = AttackScore(attack=EVIL, verdict="failed", reason=EVIL)
    row = replace(data.snn.scores[0], score=score)
    reading = EnergyReading(energy_j=1.0, duration_s=1.0, source=EVIL, scope=EVIL, provenance="measured")
    family = replace(
        data.snn,
        status=EVIL,
        scores=(*data.snn.scores, row),
        refusals=(Refusal(node=EVIL, round=1, reason=EVIL),),
        energy=(*data.snn.energy, EnergyRow(node=EVIL, round=1, kind="train", phase=EVIL, reading=reading)),
        devices=tuple(replace(d, board=EVIL, engine=EVIL, meter=EVIL) for d in data.snn.devices),
        pictures=tuple(replace(p, candidates=(replace(p.candidates[1], score=score),)) for p in data.snn.pictures),
    )
    data = replace(data, name=EVIL, snn=family, configuration=EVIL, broker=EVIL, problems=(EVIL,))
    page = Page(render(data))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert all(str(source).startswith("data:image/png;base64,") for source in images)
    assert page.words.count('<script>alert("x")</script>') > 10
    assert "{{ 7 * 7 }}" in page.words


def test_score_row_of_a_label_attack_is_no_failure(html: str) -> None:
    group = html[html.index("SNN, audit rounds") :]
    row = group[group.index(">idlg<") : group.index(">ratio<")]
    assert re.findall(r'class="num">([^<]*)<', row)[:4] == ["20", "0", "0", "labels only"]


def test_scores_of_an_unknown_attack_are_shown() -> None:
    data = make_report()
    extra = ScoreRow(
        update="0" * 32,
        node="device-1",
        round=11,
        kind="audit",
        samples=1,
        score=AttackScore(attack="brand_new", verdict="exact", psnr_db=199.0),
    )
    data = replace(data, snn=replace(data.snn, scores=(*data.snn.scores, extra)))
    (line, _) = next(tile for tile in tiles(data) if tile.title == "Worst leak, audit rounds").lines
    assert line.value == "199.0 dB"
    assert "brand_new" in line.note

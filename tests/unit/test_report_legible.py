"""Both reports as readers see them: on a desk, on a phone, dark, on paper; and what they would load."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from deploy.sweep.plan import Sweep
from deploy.sweep.report.page import render
from deploy.sweep.table import ATTACK_COLUMNS, RUN_COLUMNS
from server.report import page as run_page
from tests.browser import A4_MARGIN, A4_WIDTH, PROGRAM, browser
from tests.unit.test_server_report_synthetic import make_report

LOADS = {"src", "href", "srcset", "poster", "data", "action", "background"}
LEAST_TEXT_PX, LEAST_CONTRAST = 10.0, 4.5
ATTACKS = ("label", "readout_subset_sum", "rank1", "ratio", "image_lp", "frame_lp", "dlg", "cosine", "grnn")
SWEEP = {
    "name": "made-up",
    "title": "A made-up sweep with long names",
    "seeds": [1, 2],
    "target_accuracy": 0.9,
    "axes": [
        {"name": "coding", "choices": [{"label": "direct, T = 5"}, {"label": "rate, T = 20"}]},
        {"name": "defence", "choices": [{"label": "none"}, {"label": "clip, noise 0.01 C, then ternary"}]},
    ],
}


def sweep_page(folder):
    """A page with twins, ε, a configuration without images, and long names."""
    rng, runs, attacks = np.random.default_rng(1), [], []
    for coding, steps in (("direct, T = 5", 5), ("rate, T = 20", 20)):
        for defence, noise in (("none", 0.0), ("clip, noise 0.01 C, then ternary", 0.01)):
            for arm, seed in ((arm, seed) for arm in ("main", "twin") for seed in (1, 2)):
                place = {"run": f"{steps}-{noise}-{seed}", "arm": arm, "seed": seed}
                family, silent = ("ann" if arm == "twin" else "snn"), bool(noise) and steps == 20
                runs.append(
                    {
                        **dict.fromkeys(RUN_COLUMNS),
                        **place,
                        "axis.coding": coding,
                        "axis.defence": defence,
                        "dataset": "digits",
                        "family": family,
                        "steps": None if arm == "twin" else steps,
                        "noise_multiplier": noise,
                        "accuracy": rng.uniform(0.8, 0.9),
                        "updates": 20,
                        "lost": 0,
                        "duplicated": 0,
                        "bytes_up": int(4e6 / (1 + 9 * bool(noise))),
                        "never_attacked": 0,
                        "unscored": 2,
                        "joules_per_round": 0.02 * steps * (1 + 5 * (not noise)),
                        "energy_provenance": "modelled",
                        "evaluated_on": 360,
                        "epsilon": 30.0 * steps if noise else None,
                        "delta": 1e-5,
                        "epsilon_reason": "" if noise else "no update carried noise",
                        "audited": 4,
                        "false_certificates": 0,
                        "noise_certified": 0,
                        "noise_attacks": 9,
                        "mean_image_max_db": 11.0,
                    }
                )
                for at, attack in ((at, attack) for at in range(4) for attack in ATTACKS):
                    figure = None if silent or attack == "label" else float(rng.uniform(5, 120 if not noise else 30))
                    trial = {"update": f"{seed}-{at}", "node": f"n{at}", "round": 1, "samples": 1, "attack": attack}
                    scored = {"verdict": "failed" if figure is None else "partial", "reason": "", "psnr_db": figure}
                    named = (
                        {"labels_right": 1, "verdict": "recovered"} if attack == "label" else {"mean_image_db": 11.0}
                    )
                    floor = {"noise_verdict": "partial", "noise_db": float(rng.uniform(5, 9))} if at == 0 else {}
                    attacks.append({**dict.fromkeys(ATTACK_COLUMNS), **place, **trial, **scored, **named, **floor})
    guesses = {"digits": {"dataset": "digits", "chance": 0.1, "regression": 0.95, "held_out": 360, "missing": ""}}
    return render(msgspec.convert(SWEEP, Sweep), runs, attacks, folder=folder, missing=["x"], cited=[], guesses=guesses)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    written = {"run": run_page.render(make_report()), "sweep": sweep_page(folder)}
    for name, html in written.items():
        (folder / f"{name}.html").write_text(html)
    return {name: folder / f"{name}.html" for name in written}


class Loaded(HTMLParser):
    """Addresses that a page names anywhere where a browser would load or follow them."""

    def __init__(self):
        super().__init__()
        self.addresses, self.scripts = [], 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name.split(":")[-1] in LOADS]
        self.addresses += [url for _, value in attrs for url in re.findall(r"url\(([^)]*)\)", value or "")]

    def handle_data(self, data):
        self.addresses += re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", data) and ["in a style sheet: " + data[:80]]


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_page_names_no_outside_address(pages, name):
    found = Loaded()
    found.feed(pages[name].read_text())
    assert len(found.addresses) > 10, "the parser sees addresses at all"
    assert [one for one in found.addresses if not one.strip("'\"").startswith(("data:", "#"))] == []
    assert found.scripts == 0


def test_a_configuration_without_an_image_stands_in_a_lane_of_its_own(pages):
    page = pages["sweep"].read_text()
    assert page.count(">no image<") >= 2 * 3  # in the front, along the axes and against bytes, in both widths
    assert "Against ε" in page
    for told in ("steps T: 5, 20", "noise, in clip norms: 0, 0.01"):
        assert page.count(f">{told}<") == 2  # under the panel of the axis that varies alike, in both widths


def test_every_figure_of_the_table_has_its_provenance_and_n_under_it(pages):
    page = pages["sweep"].read_text()
    table = page[page.index('<section id="table">') : page.index('<section id="cite">')]
    cells = re.findall(r'<td class="num[^>]*>(.*?)</td>', table, re.DOTALL)
    assert len(cells) == 2 * 2 * 2 * 8
    provenance = r"evaluated|modelled|counted|accounted|scored"
    without = [cell for cell in cells if not re.search(rf"<small>({provenance}), n = \d", cell)]
    said = {" ".join(re.sub("<.*?>", " ", cell).split()) for cell in without}
    assert said == {"— no update carried noise", "— no run has it"}


@pytest.mark.skipif(PROGRAM is None, reason="no chromium on PATH")
def test_pages_are_legible_on_a_desk_a_phone_in_the_dark_and_on_paper(pages, tmp_path):
    sheet = A4_WIDTH - 2 * A4_MARGIN
    with browser(tmp_path / "profile") as shown:
        for name, page in pages.items():
            for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
                look = shown.show(page, width=width, dark=dark)
                assert (look.width, look.out, look.images) == (width, [], 0), (name, width)
                assert len(look.texts) > 100, (name, width)
                assert [text for text in look.texts if text.size < LEAST_TEXT_PX] == [], (name, width)
                assert [text for text in look.texts if text.contrast < LEAST_CONTRAST] == [], (name, width, dark)
            paper = shown.show(page, width=sheet, dark=True, paper=True)
            assert (paper.width, paper.cut, paper.out) == (sheet, 0, []), name
            assert min(text.contrast for text in paper.texts) >= LEAST_CONTRAST, name
            shown.pdf(tmp_path / f"{name}.pdf")
            assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert {url.split(":")[0] for url in shown.requests} <= {"file", "data"}
        assert [url for url in shown.requests if url.startswith("file:")] == [
            page.as_uri() for page in pages.values() for _ in range(5)
        ]

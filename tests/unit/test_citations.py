"""Works to cite: what each part names, what a run used, and nothing else."""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attack
from attack.citations import CITATIONS as OF_ATTACKS
from attack.citations import CLAIM
from attack.methods import KNOWN, METHODS
from attack.optimisation.objectives import OBJECTIVES
from attack.optimisation.optimisers import OPTIMISERS as DESCENTS
from attack.optimisation.priors import PRIORS
from attack.optimisation.relaxations import RELAXATIONS
from attack.optimisation.sources import SOURCES
from attack.optimisation.starts import STARTS
from contract import cochlea, encodings, metrics
from contract.codecs import CODECS
from contract.datasets import DATASETS, task_info
from contract.datasets.partition import CITED as OF_PARTITION
from contract.errors import ConfigurationError
from contract.messages import AttackScore
from contract.models import neurons, operations, quantization, surrogates
from contract.pipeline import FEEDBACK_CITED, Clip, GaussianNoise
from contract.secure import SecureAggregation
from contract.task import EncodingSpec, ModelSpec, OwnData, OwnModel, ParameterSpec, PartitionSpec, TaskSpec
from deploy.citations import WORKS, citations
from hardware.bibliography import catalogue, note, work
from hardware.citations import CITATIONS as OF_CONSTANTS
from hardware.citations import works_behind
from hardware.energy_model import EnergyModel, profiles
from server import privacy
from server.aggregation import AGGREGATORS, ALGORITHMS, OPTIMISERS, FedBuff
from server.aggregation.mean import MOMENTUM_CITED
from server.ledger import FILE_NAME, Ledger
from server.settings import ScheduleEntry

FIELD = re.compile(r"  ([a-z]+) = (\{.*\}),?")
NO_WORK = {
    *("fp32", "fp16", "int8 nearest", "int4 nearest"),  # formats of numbers, and the nearest of equal steps
    *("direct", "rate", "latency", "events"),
    *("iid", "user"),
    "triangular",  # snntorch's own, which every spiking network cites
}
"""Members that come from nowhere in particular, so that an empty tuple is never an oversight."""


def codecs():
    for name, codec in CODECS.items():
        for rounding in ("stochastic", "nearest") if "rounding" in codec.__struct_fields__ else ("",):
            one = msgspec.structs.replace(codec, rounding=rounding) if rounding else codec
            yield f"{name} {rounding}".strip(), one.cited


def declared():
    """What every member of every family names, by the member."""
    yield from codecs()
    yield from encodings.CITED.items()
    yield from OF_PARTITION.items()
    yield from metrics.CITED.items()
    yield from ((name, info.cited) for name, info in DATASETS.items())
    yield from ((name, one.cited) for name, one in surrogates.SURROGATES.items())
    yield from ((f"{bits} bits", cited) for bits, cited in quantization.CITED.items())
    yield from ((one.__name__, one.cited) for one in (Clip, GaussianNoise, SecureAggregation))
    for name, one in {**AGGREGATORS, **OPTIMISERS, **ALGORITHMS, "fedbuff": FedBuff}.items():
        yield name, (one.citation,)
    yield from ((name, (method.citation.key, *(work.key for work in method.also))) for name, method in KNOWN.items())
    yield "waits", (FedBuff.citation_of_waits,)
    yield "proximal", ScheduleEntry(proximal=0.1).cited
    yield "momentum", MOMENTUM_CITED
    yield "feedback", FEEDBACK_CITED
    yield "accounting", privacy.CITED
    yield "counting", operations.CITED
    yield "cochlea", cochlea.CITED
    yield "neuron", neurons.CITED
    yield "rounding", quantization.ROUNDING_CITED


def parsed(entry: str) -> dict[str, str]:
    """The fields of a BibTeX entry, as strictly as this project writes them."""
    first, *lines, last = entry.split("\n")
    assert re.fullmatch(r"@(article|book|inproceedings|misc|software|techreport)\{[a-z0-9-]+,", first)
    assert last == "}"
    found = {}
    for i, line in enumerate(lines):
        match = FIELD.fullmatch(line)
        assert match, line
        assert line.endswith(",") == (i < len(lines) - 1)
        depth = 0
        for sign in re.sub(r"\\.", "", match[2])[1:-1]:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0, line
        assert depth == 0, line
        assert match[1] not in found
        found[match[1]] = match[2][1:-1]
    return found


# --- the lists --------------------------------------------------------------------------------------------------------


def test_every_work_is_printed_once_and_parses():
    printed = citations(None)
    assert len({one.key for one in printed}) == len({one.entry for one in printed}) == len(printed) == len(WORKS) > 60
    for one in printed:
        fields = parsed(one.entry)
        assert one.entry.startswith(f"@{one.kind}{{{one.key},")
        assert all(fields.values())
        assert {"title", "author"} <= fields.keys()
        assert re.fullmatch(r"(19|20)\d\d", fields.get("year", "")) or one.kind == "software"
        assert ("eprint" in fields) == ("archiveprefix" in fields)
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "1234.5678"))
        assert re.fullmatch(r"10\.\d{4,5}/\S+", fields.get("doi", "10.1234/x"))
        of_kind = {"article": "journal", "inproceedings": "booktitle", "techreport": "institution", "book": "publisher"}
        assert of_kind.get(one.kind, "title") in fields


def test_a_key_stands_for_one_work():
    one, other = work("misc", "same", title="One"), work("misc", "same", title="Other")
    assert catalogue([one], [one]) == {"same": one}
    with pytest.raises(AssertionError, match="same"):
        catalogue([one], [other])
    identifiers = [name for found in WORKS.values() for name in found.identifiers]
    assert len(set(identifiers)) == len(identifiers), "no work has two entries"


def test_every_member_names_works_that_are_there():
    found = list(declared())
    assert {key for _, cited in found for key in cited} <= set(WORKS)
    assert {name for name, cited in found if not cited} == NO_WORK
    assert set(encodings.CITED) == set(encodings.ENCODINGS)
    assert set(quantization.CITED) == set(quantization.GRIDS)
    assert set(OF_PARTITION) == set(get_args(get_type_hints(PartitionSpec)["kind"]))
    assert set(metrics.CITED) <= set(AttackScore.__struct_fields__)


def test_every_work_is_cited_by_something():
    named = {key for _, cited in declared() for key in cited} | {CLAIM}
    named |= {
        one.key for name in profiles() for c in EnergyModel.load(name).constants for one in works_behind(c.source)
    }
    assert set(WORKS) == named


# --- what attacks rest on ---------------------------------------------------------------------------------------------

_AUTHOR = r"[A-Z][a-z]\w*"
NAMED = re.compile(rf"\b({_AUTHOR})(?:(?:, {_AUTHOR})*(?: and {_AUTHOR}| et al\.))? \(?((?:19|20)\d\d)\b")
"""A work in words: its first author and its year."""
NUMBER = re.compile(r"arXiv (\d{4}\.\d{5})")
COMPARED = {"span_consistency": {"zhu2019", "kariyappa2023"}}
"""What an attack's file names as done otherwise."""


def named_in(text: str) -> set[str]:
    """Beginnings of the keys of the works that a text names by their first author and year."""
    plain = unicodedata.normalize("NFKD", " ".join(text.split())).encode("ascii", "ignore").decode()
    return {f"{author.lower()}{year}" for author, year in NAMED.findall(plain)}


def test_works_in_words_are_found():
    text = "MNIST (Candès, Wakin and\n  Boyd 2008); DLG, Zhu et al. 2019; Byrd et al. (1995), Hu and\nLi 2017"
    assert named_in(text) == {"candes2008", "zhu2019", "byrd1995", "hu2017"}


def test_what_attacks_rest_on_is_catalogued_and_not_named_twice():
    for method in KNOWN.values():
        assert all(OF_ATTACKS[work.key] == work for work in (method.citation, *method.also))
        assert len({method.citation.key, *(work.key for work in method.also)}) == 1 + len(method.also)


def test_what_the_attacks_files_name_has_an_entry():
    room = Path(attack.__file__).parent
    texts = {path: path.read_text() for path in room.rglob("*.py") if "citations" not in path.parts}
    starts = {re.match(r"[a-z]+\d{4}", key)[0] for key in OF_ATTACKS if key != "spikeleak"}
    named = {work for text in texts.values() for work in named_in(text)}
    assert len(named) > 20
    assert named - starts == {"kariyappa2023"}
    numbers = {number for text in texts.values() for number in NUMBER.findall(text)}
    assert numbers - {number for one in OF_ATTACKS.values() for number in one.identifiers} == {"2209.05578"}


@pytest.mark.parametrize("name", METHODS)
def test_an_attack_rests_on_what_its_file_names(name):
    method = METHODS[name]
    cited = {method.citation.key, *(work.key for work in method.also)}
    missing = {
        work
        for work in named_in(sys.modules[type(method).__module__].__doc__)
        if not any(key.startswith(work) for key in cited)
    }
    assert missing <= COMPARED.get(name, set())


@pytest.mark.parametrize("family", [OBJECTIVES, PRIORS, STARTS, RELAXATIONS, DESCENTS])
def test_every_part_of_gradient_matching_says_what_it_comes_from(family):
    for part in family.values():
        said = part.__doc__ or ""
        cited = [OF_ATTACKS[key] for key in SOURCES[part]]
        assert all(any(work.key.startswith(start) for work in cited) for start in named_in(said))
        assert set(NUMBER.findall(said)) <= {number for work in cited for number in work.identifiers}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rank1", set()),
        ("label", {"wainakh2022user"}),
        ("dlg", {"liu1989limited", "byrd1994representations", "zhao2020idlg", "wainakh2022user"}),
        ("dlg_joint", {"liu1989limited", "byrd1994representations"}),
        ("cosine", {"rudin1992nonlinear", "kingma2015adam", "zhao2020idlg", "wainakh2022user"}),
        ("grnn", {"zhu2019dlg", "rudin1992nonlinear", "kingma2015adam"}),
        ("frame_lp", {"huangfu2018parallelizing", "cline1979rank", "jonker1987shortest", "zhao2020idlg"}),
    ],
)
def test_an_attack_cites_its_parts_and_no_others(name, expected):
    assert {work.key for work in KNOWN[name].also} == expected


# --- sources of constants ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", profiles())
def test_sources_of_our_constants_are_known_works(profile):
    for constant in EnergyModel.load(profile).constants:
        works = works_behind(constant.source)
        assert works
        assert {one.key for one in works} <= set(OF_CONSTANTS)


def test_a_constant_of_two_works_names_both():
    (constant, _) = EnergyModel.load("spinnaker2").rests_on["model:spinnaker2"]
    assert [one.key for one in works_behind(constant.source)] == ["hoeppner2019dynamic", "kerasspiking"]


def test_a_source_that_is_not_ours_stands_in_its_own_words():
    source = "own bench, 50 % load; method of doi:10.1109/ISSCC.2014.6757323"
    known, kept = works_behind(source)
    assert known.key == "horowitz2014computing"
    assert parsed(kept.entry)["note"] == source.replace("%", r"\%")
    (alone,) = works_behind("doi:10.1109/ISSCC.2014.67573234, arXiv 11903.08941")
    assert alone.key.startswith("source-"), "longer numbers are other works"
    assert alone.key != kept.key


@settings(max_examples=100)
@given(st.text("aü {}\\%$#&_~^\n\u2028", min_size=1))
def test_whatever_a_source_says_its_note_parses(source):
    assert "note" in parsed(note("Title", source).entry)


# --- what a round uses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({}, set()),
        ({"codec": "fp16"}, set()),
        ({"codec": "int8"}, {"alistarh2017qsgd"}),
        ({"codec": "ternary"}, {"wen2017terngrad"}),
        ({"codec": "ternary", "error_feedback": True}, {"li2016ternary", *FEEDBACK_CITED}),
        ({"codec": "sign"}, {"bernstein2018signsgd", *FEEDBACK_CITED}),
        ({"codec": "sign", "error_feedback": False}, {"bernstein2018signsgd", "karimireddy2019error"}),
        ({"codec": "topk"}, {"aji2017sparse", *FEEDBACK_CITED}),
        ({"codec": "topk", "error_feedback": False}, {"aji2017sparse", "alistarh2017qsgd"}),
        ({"codec": "topk", "kind": "audit"}, {"aji2017sparse", "alistarh2017qsgd"}),
        ({"clip_norm": 1.0}, {"abadi2016deep"}),
        ({"clip_norm": 1.0, "noise_multiplier": 1.0}, {"abadi2016deep", "dwork2014algorithmic"}),
        ({"server_momentum": 0.9}, set(MOMENTUM_CITED)),
        ({"server_momentum": 0.9, "kind": "audit"}, set()),
        ({"secure": SecureAggregation()}, {"bonawitz2017practical", "shamir1979share"}),
    ],
)
def test_a_round_cites_what_it_does_to_updates(plan, expected):
    assert set(ScheduleEntry(**plan).cited) - {"mcmahan2017communication"} == expected


def test_averaging_is_cited_under_another_aggregator_too():
    assert ScheduleEntry(aggregator="median").cited == ("yin2018byzantine", "mcmahan2017communication")


# --- what a run uses --------------------------------------------------------------------------------------------------

PLACE = {"update_uid": "u", "node": "a", "round": 1}
HAPPENED = {"verdict": "recovered", "reason": "", "seconds": 1.0}
OWN = OwnModel(sha256="0" * 64, factory="make", parameters=(ParameterSpec(name="w", shape=(2,)),))


def ledger_of(folder, task=None, schedule=(), attack="", **score):
    """A ledger that holds settings and, where an attack is named, one of its scores."""
    ledger = Ledger(folder / FILE_NAME)
    held = {"schedule": schedule} | ({} if task is None else {"task": task})
    ledger.claim(msgspec.to_builtins(held))
    if attack:
        seen = {**PLACE, **HAPPENED, "attack": attack, "seen": "update"}
        ledger.insert("reconstructions", {**seen, "labels": "[]", "shape": "[]", "received_wall": 0.0})
        ledger.insert("scores", {**seen, "batch": 1, "sample": 0, "candidate": 0, **score})
    return ledger


def reading(ledger, source, provenance="modelled"):
    energy_j = None if provenance == "unavailable" else 1.0
    row = {"phase": "train", "duration_s": 1.0, "scope": "operations", "reason": "", "samples": 1}
    ledger.insert("energy", {**PLACE, **row, "source": source, "provenance": provenance, "energy_j": energy_j})


def keys(folder):
    return {one.key for one in citations(folder)} - {"spikeleak"}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            TaskSpec(model=ModelSpec(weight_bits=None)),
            {"lecun1998gradient", *neurons.CITED, "fang2021incorporating"},
        ),
        (TaskSpec(model=ModelSpec(family="ann", weight_bits=None)), {"lecun1998gradient"}),
        (
            TaskSpec(dataset="digits", model=ModelSpec(family="ann", weight_bits=2, membrane_bits=8)),
            {"alpaydin1998optical", "li2016ternary", "bengio2013estimating"},
        ),
        (
            TaskSpec(
                dataset="fsdd",
                encoding=EncodingSpec(kind="integrate"),
                partition=PartitionSpec(kind="dirichlet"),
                model=ModelSpec(kind="own", own=OWN),
            ),
            {"jackson2018free", *cochlea.CITED, "lazar2004time", "hsu2019measuring"},
        ),
        (
            TaskSpec(
                dataset="own",
                own_data=OwnData(shape=(2, 2), classes=2),
                model=ModelSpec(weight_bits=None, membrane_bits=8),
            ),
            {*neurons.CITED, "fang2021incorporating", "bengio2013estimating"},
        ),
    ],
)
def test_a_run_cites_its_data_and_its_network(tmp_path, task, expected):
    ledger_of(tmp_path, task).close()
    assert keys(tmp_path) == expected


def test_a_run_cites_its_attacks_and_scores(tmp_path):
    spiking = TaskSpec(dataset="own", own_data=OwnData(shape=(2, 2), classes=2), model=ModelSpec(weight_bits=None))
    with ledger_of(tmp_path, spiking, attack="label", ssim=0.5) as ledger:
        network = set(neurons.CITED) | {"fang2021incorporating"}
        label = {"zhao2020idlg", "wainakh2022user"}
        assert keys(tmp_path) - network == label | {CLAIM, "wang2004image"}
        ledger.connection.execute("UPDATE scores SET ssim = NULL, lpips = 0.1, matched_psnr_db = 9.0")
        assert keys(tmp_path) - network == label | {CLAIM, "zhang2018unreasonable", "jonker1987shortest"}
        ledger.connection.execute("UPDATE scores SET lpips = NULL, matched_psnr_db = NULL, membership_auc = 0.5")
        assert keys(tmp_path) - network == label | {CLAIM, "hanley1982meaning"}


def test_a_run_does_not_cite_attacks_that_were_refused(tmp_path):
    with ledger_of(tmp_path, attack="grnn") as ledger:
        assert keys(tmp_path) == {"ren2022grnn", "zhu2019dlg", "rudin1992nonlinear", "kingma2015adam"}
        ledger.connection.execute("UPDATE reconstructions SET verdict = 'refused'")
        assert keys(tmp_path) == set()


def test_the_claim_is_about_spiking_networks(tmp_path):
    twin = TaskSpec(dataset="own", own_data=OwnData(shape=(2, 2), classes=2), model=ModelSpec(family="ann"))
    ledger_of(tmp_path, twin, attack="label").close()
    assert CLAIM not in keys(tmp_path)


def test_accounting_and_counting_are_cited_where_there_is_a_figure(tmp_path):
    noisy = ScheduleEntry(clip_norm=1.0, noise_multiplier=1.0)
    update = {"uid": "u", "node": "a", "round": 1, "status": "admitted", "code": "", "reason": "", "bytes": 1}
    with ledger_of(tmp_path, schedule=(noisy,)) as ledger:
        ledger.insert("updates", {**update, "sha256": "", "received_wall": 0.0, "noise": 1.0})
        assert not keys(tmp_path) & {*privacy.CITED, *operations.CITED}
        ledger.connection.execute("UPDATE updates SET epsilon = 2.0")
        assert keys(tmp_path) >= set(privacy.CITED)
        assert not keys(tmp_path) & set(operations.CITED)
        counts = "payload_bytes, macs, effective_macs, acs, dense_macs, membrane_updates, backward_macs, memory_bytes"
        names = [*counts.split(", "), "backward_bytes", "spikes", "spike_sites"]
        ledger.insert("operations", {**PLACE, **dict.fromkeys(names, 1), "active": "[]", "sites": "[]"})
        assert keys(tmp_path) >= set(operations.CITED)


def test_joules_cite_the_constants_that_they_rest_on_and_no_others(tmp_path):
    with ledger_of(tmp_path) as ledger:
        assert keys(tmp_path) == set()
        reading(ledger, "rapl:package-0", "measured")
        reading(ledger, "model:loihi1", "unavailable")
        assert keys(tmp_path) == set(), "a profile without a figure for what was counted prices nothing"
        reading(ledger, "model:wifi-pi1")
        assert keys(tmp_path) == {"kaup2014powerpi"}
        reading(ledger, "model:pi4")
        assert keys(tmp_path) == {"kaup2014powerpi", "geerling2024top500"}


def test_a_board_of_the_users_own_is_cited_in_its_own_words(tmp_path, own_profile):
    with ledger_of(tmp_path) as ledger:
        reading(ledger, "model:mine")
        (missing,) = (one for one in citations(tmp_path) if one.key != "spikeleak")
        assert "mine.toml" in parsed(missing.entry)["note"], "its file is not with the run, and that is said"
        (tmp_path / "profiles").mkdir()
        (tmp_path / "profiles" / "mine.toml").write_text(own_profile)
        (source,) = (one for one in citations(tmp_path) if one.key != "spikeleak")
        assert parsed(source.entry)["note"] == "lab book 3"


@pytest.fixture
def own_profile():
    priced = "\n".join(f"{name} = {{ my_op = 1 }}" for name in ("mac", "ac", "membrane_update", "backward_mac"))
    return (
        'name = "mine"\ntitle = "Mine"\nno_radio = "a cable"\n[[constants]]\nname = "my_op"\nvalue = 1.5\n'
        f'unit = "nJ"\nnode = "bench"\nsource = "lab book 3"\n[operations]\n{priced}\nmemory_byte = {{}}\n'
    )


def test_a_study_cites_what_any_of_its_runs_and_twins_used(tmp_path):
    tasks = {
        "runs/1": TaskSpec(dataset="digits", model=ModelSpec(weight_bits=None)),
        "runs/2": TaskSpec(dataset="breast_cancer", model=ModelSpec(weight_bits=None)),
        "runs/2/twin": TaskSpec(dataset="breast_cancer", model=ModelSpec(family="ann")),
    }
    for folder, task in tasks.items():
        ledger_of(tmp_path / folder, task).close()
    spiking = {*neurons.CITED, "fang2021incorporating"}
    of_runs = {"alpaydin1998optical", "wolberg1993breast", "jacob2018quantization", "bengio2013estimating"}
    assert keys(tmp_path) == spiking | of_runs
    assert len(citations(tmp_path)) == len(keys(tmp_path)) + 1
    with pytest.raises(ConfigurationError, match="holds no ledger"):
        citations(tmp_path / "runs")


def test_data_of_the_devices_own_have_no_publication():
    assert task_info(TaskSpec(dataset="own", own_data=OwnData(shape=(2,), classes=2))).cited == ()

"""Every domain from end to end: its preset through `spikeleak run`, beside a logistic regression on the same split.

python -m tests.benchmarks.domains [DOMAIN ...] [--short] [--out DIR]

A domain is a preset of `deploy/studies/domains`; without names all run whose data `SPIKELEAK_DATA` or a package holds,
and the others are named. A row says: samples trained on and held out, classes, the held-out share of the most frequent
class, held-out accuracy of scikit-learn's logistic regression (on what the encoding is made from: intensities, of
events the share of steps with one) and of the federated spiking network, then of the audit round the greatest PSNR and
its attack, the mean sample's PSNR against the same truths, and how many of the ladder's attacks said what. `--short`
keeps two devices, six training rounds and an attacker's second per update.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from attack.methods import METHODS
from contract.datasets import SOURCES, data_dir, held_out_split, load, on_disk
from contract.encodings import intensities
from contract.task import TaskSpec
from deploy.study import STUDIES, Study, load_study, resized, to_toml
from server.ledger import FILE_NAME, Ledger

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = tuple(sorted(path.stem for path in (STUDIES / "domains").glob("*.toml")))
SHORT_ROUNDS, SHORT_BUDGET_S = 6, 1.0
LADDER = len(METHODS)
HEAD = (
    f"{'domain':16} {'train':>6} {'test':>6} {'cls':>3} {'chance':>6} {'logreg':>6} {'SNN':>6}  "
    f"{'worst dB':>8} {'attack':22} {'mean dB':>7} {'s':>5}  ladder"
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One domain; accuracies and chance are fractions, `None` where there is no figure."""

    domain: str
    train: int
    test: int
    classes: int
    chance: float
    regression: float
    accuracy: float | None
    worst_db: float | None
    attack: str | None
    mean_image_db: float | None
    unscored: int
    verdicts: dict[str, int]
    seconds: float

    def line(self) -> str:
        """The row for people."""

        def number(value: float | None, form: str) -> str:
            return "—" if value is None else format(value, form)

        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        missing = f"; NOT SCORED: {self.unscored} updates" if self.unscored else ""
        return (
            f"{self.domain:16} {self.train:6} {self.test:6} {self.classes:3} {self.chance:6.3f} {self.regression:6.3f} "
            f"{number(self.accuracy, '6.3f'):>6}  {number(self.worst_db, '8.1f'):>8} {self.attack or '—':22} "
            f"{number(self.mean_image_db, '7.1f'):>7} {self.seconds:5.0f}  {told}{missing}"
        )


def preset(domain: str, *, short: bool) -> Study:
    """The preset of a domain."""
    study = load_study(STUDIES / "domains" / f"{domain}.toml")
    if not short:
        return study
    attack = msgspec.structs.replace(study.attack, budget_s=SHORT_BUDGET_S, noise_controls=0)
    return msgspec.structs.replace(resized(study, clients=2, rounds=SHORT_ROUNDS), attack=attack)


def regression(task: TaskSpec) -> tuple[float, tuple[int, int], float]:
    """Held-out accuracy of a logistic regression, samples of both parts, share of the most frequent class."""
    from sklearn.linear_model import LogisticRegression

    data = load(task.dataset)
    train, test = held_out_split(task, data.y, data.users)
    x = data.x if not data.info.events else intensities(task.encoding, data.x)
    flat = np.asarray(x, dtype=np.float32).reshape(len(x), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: more steps change little
        model = LogisticRegression(max_iter=100).fit(flat[train], data.y[train])
    chance = np.bincount(data.y[test]).max() / len(test)
    return float(model.score(flat[test], data.y[test])), (len(train), len(test)), float(chance)


def audited(directory: Path) -> tuple[dict[str, int], float | None]:
    """Verdicts on the updates of audit rounds, and the mean sample's best PSNR against their truths."""
    verdicts: collections.Counter[str] = collections.Counter()
    means = []
    with Ledger.open_read(directory / FILE_NAME) as ledger:
        for row in ledger.rows(
            "SELECT verdict, mean_image_db FROM scores WHERE round IN (SELECT round FROM rounds WHERE kind = 'audit')"
        ):
            verdicts[row["verdict"]] += 1
            if row["mean_image_db"] is not None:
                means.append(row["mean_image_db"])
    return dict(verdicts), max(means, default=None)


def measure(domain: str, out: Path, *, short: bool = False) -> Row:
    """Runs one domain as a user would, into an empty folder."""
    study = preset(domain, short=short)
    found, (train, test), chance = regression(study.task)
    out.mkdir(parents=True)
    path = out / "study.toml"
    path.write_text(to_toml(study))
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "run", str(path), "--out", str(out / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{domain}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads((out / "run" / "summary.json").read_text())
    audit = summary["leakage"]["by_schedule"]["audit"]
    verdicts, mean_image_db = audited(out / "run")
    return Row(
        domain=domain,
        train=train,
        test=test,
        classes=SOURCES[study.task.dataset].info.classes,
        chance=chance,
        regression=found,
        accuracy=summary["accuracy"],
        worst_db=audit["worst_psnr_db"],
        attack=audit["worst_attack"],
        mean_image_db=mean_image_db,
        unscored=summary["leakage"]["unscored"],
        verdicts=verdicts,
        seconds=time.monotonic() - began_s,
    )


def writable_data(folder: Path) -> None:
    """Names a data folder of our own to keep decoded sets in, with links to the official files of the one given."""
    given = data_dir()
    folder.mkdir()
    for path in given.iterdir() if given.is_dir() else ():
        if path.is_dir():
            (folder / path.name).symlink_to(path)
    os.environ["SPIKELEAK_DATA"] = str(folder)


def available(domain: str) -> bool:
    """Whether the data of a domain is here."""
    dataset = load_study(STUDIES / "domains" / f"{domain}.toml").task.dataset
    return not SOURCES[dataset].archives or on_disk(dataset)


def main() -> None:
    """Prints a row per domain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", help=f"of {', '.join(DOMAINS)}")
    parser.add_argument("--short", action="store_true", help="two devices, six rounds, a second of attacks")
    parser.add_argument("--out", type=Path, help="keep the runs in this folder, which must not exist")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.domains) - set(DOMAINS))
    if unknown:
        parser.error(f"no domain {unknown[0]!r}: choose from {', '.join(DOMAINS)}")
    with tempfile.TemporaryDirectory() as folder:
        writable_data(Path(folder) / "data")
        absent = [name for name in chosen.domains or DOMAINS if not available(name)]
        out = chosen.out or Path(folder) / "runs"
        print(HEAD, flush=True)
        for domain in chosen.domains or DOMAINS:
            if domain not in absent:
                print(measure(domain, out / domain, short=chosen.short).line(), flush=True)
        if absent:
            print(f"no data here: {', '.join(absent)}")


if __name__ == "__main__":
    main()

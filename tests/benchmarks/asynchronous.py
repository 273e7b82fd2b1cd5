"""FedBuff against synchronous rounds, the same number of updates, in a fleet with one device that is slower.

`python -m tests.benchmarks.asynchronous [--short] [--plain] [--alpha X] [--seeds N] [--rounds N] [--slower X]`: real
processes on a real broker. Every device trains for a set time (`paced_device`), one of them `--slower` times as long.
Time is taken from the ledger: from the first opening to the admission of the last update that counts. Accuracy is the
last model's on the held-out samples.

FedBuff makes a version of as many updates as there are devices that are not slow, each of another device (`waits`);
with `--plain` as the paper has it, of as many as there are devices, whoever they are of. `--alpha` gives devices
different data: what the slow one alone knows is learnt less then, and the accuracy shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from contract.link import LinkSettings
from contract.task import EncodingSpec, ModelSpec, PartitionSpec, TaskSpec
from deploy import broker
from deploy.study import to_toml
from edge_client.settings import ClientSettings
from server.aggregation import FedBuff
from server.evaluation import Evaluator
from server.export import exported
from server.ledger import FILE_NAME, Ledger
from server.model import parameters_of
from server.publication import ensure_exported
from server.report.waiting import read_waiting, summarised
from server.settings import ScheduleEntry, ServerSettings
from tests.faults.chaos.zygote import Zygote

DEVICES = 5
MODES = ("synchronous", "asynchronous")
PLAN = ScheduleEntry(local_steps=5, batch_size=16, learning_rate=0.2, deadline_s=60.0)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one run gave.

    Attributes:
        taken_s: From the first opening to the last update that counts.
        updates: That count.
        slower: Measured: median training time of the slow device over that of the others.
        idle_s: Idle seconds of all devices.
        staleness: Mean over the updates.
    """

    taken_s: float
    updates: int
    accuracy: float
    slower: float
    idle_s: float
    staleness: float


def task_of(seed: int, dataset: str, alpha: float | None = None) -> TaskSpec:
    """A small spiking network: training takes little beside the time that is set."""
    return TaskSpec(
        dataset=dataset,
        encoding=EncodingSpec(steps=4),
        model=ModelSpec(hidden=(32,)),
        partition=PartitionSpec() if alpha is None else PartitionSpec(kind="dirichlet", alpha=alpha),
        seed=seed,
    )


def schedule_of(mode: str, rounds: int, rate: float, buffer: int, *, waits: bool) -> ScheduleEntry:
    """As many updates in either mode: rounds of all devices, or versions out of as many updates.

    Raises:
        ValueError: No number of full buffers has as many.
    """
    if mode == "synchronous":
        return msgspec.structs.replace(PLAN, rounds=rounds)
    versions, rest = divmod(rounds * DEVICES, buffer)
    if rest:
        raise ValueError(f"{rounds} rounds of {DEVICES} updates: no multiple of the buffer, which is {buffer}")
    fedbuff = FedBuff(buffer=buffer, versions=versions, waits=waits)
    return msgspec.structs.replace(PLAN, server_learning_rate=rate, fedbuff=fedbuff)


def run(
    folder: Path,
    link: LinkSettings,
    zygote: Zygote,
    entry: ScheduleEntry,
    *,
    task: TaskSpec,
    rounds: int,
    times_s: list[float],
) -> Outcome:
    """One run with a server and a device process for each time.

    Raises:
        RuntimeError: A process failed, or the run is not over in good time.
    """
    folder.mkdir(parents=True)
    name = f"{entry.mode}-{task.seed}"
    server = ServerSettings(
        run=name,
        directory=folder / "server",
        link=link,
        task=task,
        schedule=(entry,),
        clients=len(times_s),
        drain_s=0.1,
        evaluate=False,
    )
    with Ledger(server.directory / FILE_NAME) as ledger:
        info = Evaluator(task)
        ensure_exported(ledger, lambda: exported(task, info.shape, info.classes))
    started = {_start(zygote, folder, "server", server): "server"}
    for index, seconds in enumerate(times_s):
        settings = ClientSettings(
            run=name,
            node=f"device-{index}",
            link=link,
            directory=folder / f"device-{index}",
            shard=index,
            shards=len(times_s),
            seed=100 * task.seed + index,
        )
        started[_start(zygote, folder, settings.node, settings, f"{seconds:g}")] = settings.node
    deadline_s = time.monotonic() + 60 + 3 * rounds * max(times_s)
    while started:
        ended = zygote.ended(0.5)
        if ended is not None and (who := started.pop(ended[0], None)) and ended[1]:
            raise RuntimeError(f"{who} ended with status {ended[1]}: {(folder / f'{who}.log').read_text()[-800:]}")
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"not over in time: {sorted(started.values())} still run")
    return _outcome(server.directory / FILE_NAME, Evaluator(task), slow=f"device-{len(times_s) - 1}")


def _start(zygote: Zygote, folder: Path, name: str, settings: msgspec.Struct, *more: str) -> int:
    path = folder / f"{name}.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    main = "tests.benchmarks.paced_device:main" if more else "tests.faults.chaos.party:main"
    return zygote.fork(main, [str(path), *more] if more else ["server", str(path)], folder / f"{name}.log")


def _outcome(path: Path, evaluator: Evaluator, *, slow: str) -> Outcome:
    with Ledger.open_read(path) as ledger:
        counted = "updates WHERE uid IN (SELECT uid FROM aggregated)"
        trained = ledger.rows("SELECT node, MAX(duration_s) AS s FROM energy WHERE phase = 'train' GROUP BY update_uid")
        others = [row["s"] for row in trained if row["node"] != slow]
        last = ledger.value("SELECT object FROM models ORDER BY version DESC LIMIT 1")
        return Outcome(
            taken_s=ledger.value(f"SELECT MAX(received_wall) FROM {counted}")
            - ledger.value("SELECT MIN(opened_wall) FROM rounds"),
            updates=ledger.value(f"SELECT COUNT(*) FROM {counted}"),
            accuracy=evaluator(parameters_of(last)).accuracy,
            slower=statistics.median(row["s"] for row in trained if row["node"] == slow) / statistics.median(others),
            idle_s=sum(part["idle_s"] for part in summarised(read_waiting(ledger)).values()),
            staleness=ledger.value("SELECT AVG(staleness) FROM aggregated"),
        )


def main(arguments: list[str] | None = None) -> dict[str, list[Outcome]]:
    """Runs both modes for each seed and says what they took; returns it by mode."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.asynchronous", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few rounds of one seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--slower", type=float, default=10.0)
    parser.add_argument("--plain", action="store_true", help="FedBuff without waits, of as many updates as devices")
    parser.add_argument("--buffer", type=int, help="updates of a version; default: as many as devices are not slow")
    parser.add_argument("--rate", type=float, default=1.0, help="FedBuff's server_learning_rate")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a training on the other devices")
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--alpha", type=float, help="of a Dirichlet split by label; default: all devices' data alike")
    asked = parser.parse_args(arguments)
    if asked.short:
        asked.seeds, asked.rounds, asked.seconds, asked.dataset, asked.buffer = 1, 6, 0.08, "digits", DEVICES - 2
    buffer = asked.buffer or (DEVICES if asked.plain else DEVICES - 1)
    try:
        entries = {mode: schedule_of(mode, asked.rounds, asked.rate, buffer, waits=not asked.plain) for mode in MODES}
    except ValueError as error:
        parser.error(str(error))
    split = "" if asked.alpha is None else f" (Dirichlet {asked.alpha:g})"
    print(
        f"{asked.dataset}{split}, {asked.rounds} rounds of {DEVICES} devices against {entries['asynchronous'].fedbuff}"
    )
    times_s = [asked.seconds] * (DEVICES - 1) + [asked.slower * asked.seconds]
    found: dict[str, list[Outcome]] = {mode: [] for mode in MODES}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Zygote(Path(folder) / "zygote.log")) as zygote,
        broker.serve(broker.BrokerSection(kind="auto"), Path(folder)) as running,
    ):
        for seed in range(1, asked.seeds + 1):
            for mode in MODES:
                task = task_of(seed, asked.dataset, asked.alpha)
                place = Path(folder) / f"{mode}-{seed}"
                one = run(place, running.link, zygote, entries[mode], task=task, rounds=asked.rounds, times_s=times_s)
                found[mode].append(one)
                print(
                    f"seed {seed} {mode:12}: {one.updates} updates in {one.taken_s:6.2f} s, accuracy "
                    f"{one.accuracy:.1%}, slow device {one.slower:.1f} times slower, idle {one.idle_s:.1f} s, mean "
                    f"staleness {one.staleness:.2f}",
                    flush=True,
                )
    tell(*(found[mode] for mode in MODES))
    return found


def tell(synchronous: list[Outcome], asynchronous: list[Outcome]) -> None:
    """Ratio of the times of each pair, and the difference of the mean accuracies."""
    ratios = [s.taken_s / a.taken_s for s, a in zip(synchronous, asynchronous, strict=True)]
    points = [100 * (a.accuracy - s.accuracy) for s, a in zip(synchronous, asynchronous, strict=True)]
    spread = f" ± {statistics.stdev(points) / len(points) ** 0.5:.2f} (standard error)" if len(points) > 1 else ""
    print(
        f"n = {len(ratios)}: FedBuff {statistics.median(ratios):.1f} times sooner (least {min(ratios):.1f}); accuracy "
        f"{statistics.mean(points):+.2f} points{spread}"
    )


if __name__ == "__main__":
    main()

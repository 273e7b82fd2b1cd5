"""Bad payloads by the hundred thousand, each spoiled at one depth: none crashes a party, none is admitted."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from contract.codecs import CODECS
from contract.task import RoundPlan
from server.inbox import HELD_BYTES
from tests.faults.chaos import Outcome
from tests.faults.chaos.depth import LAYERS, Depth
from tests.faults.chaos.hoarding import hoard
from tests.faults.chaos.victims import Books, DeviceUnderFire, Server

SEED = 20_260
EPISODE = 5_000
"""Payloads that one server gets before a new one takes its place."""
ASIDE = 0.1
"""Share of the payloads that go to a device, and to the attacker."""
PLANS = tuple(
    RoundPlan(codec=codec, compression=compression, batch_size=32, kind=kind, algorithm="fedsgd", share=0.5)
    for codec, compression, kind in itertools.product(CODECS, ("none", "zlib"), ("train", "audit"))
)


def run(count: int, folder: Path) -> Outcome:
    """Hands out `count` bad payloads.

    Args:
        count: Payloads over all parties.
        folder: Not used for ledgers: these lie in memory where the system has a place for them.
    """
    depth, codes, first = Depth(), Counter[str](), 0
    aside, hoarded = math.ceil(ASIDE * count), max(1200, count // 50)
    began = time.monotonic()
    with _quiet(), _fast_folder(folder) as fast, depth.listening():
        sent, held_mib = hoard(hoarded, fast / "hoard", SEED)
        sizes = _episodes(count - 2 * aside - sent)
        for episode, size in enumerate(sizes):
            codes += _serve(depth, PLANS[episode % len(PLANS)], fast / f"server-{episode}", size, SEED + episode)
            first = _resident_bytes() if episode == 0 else first
        grown = _resident_bytes() - first
        books = Books()
        _fire(depth, books, aside, SEED - 1)
        books.check()
        device = DeviceUnderFire(fast / "device")
        _fire(depth, device, aside, SEED - 2)
        device.check()
        device.close()
    total = depth.stopped.total()
    assert grown < HELD_BYTES, f"the process grew by {grown} bytes from the first server to the last"
    assert min(depth.stopped[layer] for layer in LAYERS) > total / 100, f"a layer is hardly reached: {depth.stopped}"
    assert len(codes) >= 12, f"only these refusals were met: {dict(codes)}"
    total += sent
    stopped = ", ".join(f"{layer} {depth.stopped[layer]}" for layer in LAYERS)
    rate = total / (time.monotonic() - began)
    return Outcome(
        injected=total,
        figures=f"0 crashes, 0 admitted; stopped at: {stopped}; {held_mib:.0f} MiB held at most, "
        f"{grown / 2**20:.0f} MiB grown; {rate:.0f}/s",
    )


def _serve(depth: Depth, plan: RoundPlan, folder: Path, count: int, seed: int) -> Counter[str]:
    server = Server(plan, folder)
    try:
        _fire(depth, server, count, seed)
        server.check()
        return Counter(server.codes())
    finally:
        server.close()
        shutil.rmtree(folder)


def _episodes(count: int) -> list[int]:
    """Payloads for one server after another; one full episode at least, so that every layer is reached."""
    sizes = [EPISODE] * max(1, count // EPISODE)
    return [*sizes, count - sum(sizes)] if count > sum(sizes) else sizes


def _resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _fire(depth: Depth, victim: Server | Books | DeviceUnderFire, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for topic, payload in itertools.islice(victim.bad(rng), count):
        depth.begin()
        try:
            victim.take(topic, payload)
        except Exception as error:
            text = f"{type(victim).__name__} raised {type(error).__name__}: {error}; topic {topic!r}, payload "
            raise AssertionError(f"{text}{payload[:2000].hex()}") from error
        depth.end()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Each bad payload is worth a warning in the log; a million of them are not."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _fast_folder(folder: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: what is tested here is not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else folder, prefix="payloads-") as fast:
        yield Path(fast)

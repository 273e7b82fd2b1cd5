"""Many links on one thread behave as each does on its own: against real brokers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from contract.link import Link, LinkSettings
from contract.switchboard import Switchboard
from deploy import broker

PATIENCE_S = 20.0


@pytest.fixture
def switchboard() -> Iterator[Switchboard]:
    board = Switchboard()
    board.start()
    yield board
    board.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "what was waited for did not come"
        time.sleep(0.02)


def test_forty_links_take_and_give_on_one_thread(running_broker, switchboard) -> None:
    before = threading.active_count()
    heard: queue.SimpleQueue[tuple[int, str, bytes]] = queue.SimpleQueue()
    links = [
        Link(
            running_broker.link,
            f"many-{number}",
            on_message=lambda topic, payload, number=number: heard.put((number, topic, payload)),
            switchboard=switchboard,
        )
        for number in range(40)
    ]
    for number, link in enumerate(links):
        link.subscribe(f"to/{number}")
        link.start(timeout_s=None)
    for link in links:
        link.wait_until_up(timeout_s=PATIENCE_S)
    assert threading.active_count() == before
    payload = bytes(range(256)) * 400
    for number, link in enumerate(links):
        assert link.publish(f"to/{(number + 1) % 40}", payload + bytes([number]))
    found = {heard.get(timeout=PATIENCE_S) for _ in links}
    assert found == {((n + 1) % 40, f"to/{(n + 1) % 40}", payload + bytes([n])) for n in range(40)}
    wait_for(lambda: not any(link.sending for link in links))
    began_s = time.monotonic()
    for link in links:
        link.stop(farewell=("gone", b"x"))
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert not any(link.connected for link in links)


def test_one_that_is_severed_has_its_will_published_and_the_others_stay(running_broker, switchboard) -> None:
    heard: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    watcher = Link(
        running_broker.link, "watcher", on_message=lambda *message: heard.put(message), switchboard=switchboard
    )
    watcher.subscribe("will/+")
    watcher.start()
    links = {
        name: Link(
            running_broker.link,
            name,
            will=(f"will/{name}", b"dead"),
            on_message=lambda _topic, _payload: None,
            switchboard=switchboard,
        )
        for name in ("killed", "polite")
    }
    for link in links.values():
        link.start()
    links["polite"].stop()
    links["killed"].sever()
    assert heard.get(timeout=PATIENCE_S) == ("will/killed", b"dead")
    assert watcher.publish("will/alive", b"alive")
    assert heard.get(timeout=PATIENCE_S) == ("will/alive", b"alive")
    watcher.stop()


def test_they_come_back_after_the_broker_died(switchboard, tmp_path) -> None:
    port = broker.free_port()
    section = broker.BrokerSection(port=port)
    ups: queue.SimpleQueue[int] = queue.SimpleQueue()
    downs: queue.SimpleQueue[int] = queue.SimpleQueue()
    links = [
        Link(
            LinkSettings(port=port),
            f"phoenix-{number}",
            on_message=lambda _topic, _payload: None,
            on_up=lambda number=number: ups.put(number),
            on_down=lambda _reason, number=number: downs.put(number),
            switchboard=switchboard,
            seed=number,
        )
        for number in range(5)
    ]
    with broker.serve(section, tmp_path):
        for link in links:
            link.start()
        assert {ups.get(timeout=PATIENCE_S) for _ in links} == set(range(5))
    assert {downs.get(timeout=PATIENCE_S) for _ in links} == set(range(5))
    with broker.serve(section, tmp_path):
        assert {ups.get(timeout=PATIENCE_S) for _ in links} == set(range(5))
        for link in links:
            link.stop()


def test_while_it_is_full_nothing_is_read_and_nothing_is_lost(running_broker, tmp_path) -> None:
    full = threading.Event()
    board = Switchboard(full=full.is_set)
    board.start()
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = Link(
        running_broker.link, "reader", on_message=lambda _topic, payload: heard.put(payload), switchboard=board
    )
    reader.subscribe("x")
    reader.start()
    writer = Link(running_broker.link, "writer", on_message=lambda _topic, _payload: None)
    writer.start()
    full.set()
    time.sleep(0.1)
    for number in range(20):
        assert writer.publish("x", bytes([number]))
    time.sleep(0.5)
    assert heard.empty()
    full.clear()
    assert [heard.get(timeout=PATIENCE_S) for _ in range(20)] == [bytes([number]) for number in range(20)]
    reader.stop()
    writer.stop()
    board.stop()


def test_a_broker_that_is_not_there_is_said(switchboard) -> None:
    from contract.errors import EnvironmentFaultError

    link = Link(
        LinkSettings(port=broker.free_port()), "x", on_message=lambda _topic, _payload: None, switchboard=switchboard
    )
    with pytest.raises(EnvironmentFaultError, match=r"not reached within 0\.5 s"):
        link.start(timeout_s=0.5)

"""A TCP proxy that makes a link bad on purpose: slow, narrow, broken, one-sided or noisy.

It stands before a broker on the loopback interface; what connects to its port reaches the broker through it. `Proxy`
runs an event loop on a thread of its own and is commanded from any other; as a process
(`python -m deploy.shaping.proxy UPSTREAM_PORT`) it prints its port and takes one command a line, see `main`.

Per direction, a chunk that was read at time t is written at ``t' + latency`` with ``t' = max(t, b − burst / rate)``
and ``b`` the time until which the bytes before it and its own fill the link: a token bucket in its virtual form
(generic cell rate algorithm, ITU-T I.371). The bucket is the link's, shared by all of its connections; with
`shared=False` each connection has one of its own.

What a fault does to a connection that stands, and to one that is opened meanwhile:

| fault | standing connection | new connection |
|---|---|---|
| `stall`, `partition` | nothing is forwarded; bytes wait and arrive when it ends | accepted, then the same |
| `half_open` | one side is closed, the other stays open in silence for ever: no FIN, no RST | works |
| `reset` | both sides get an RST | works |

A partition differs from a stall in that it also ends connections opened while it lasted, when it ends: their peers
never heard of them. Draws come from the seed, the connection's number and its direction.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import msgspec

from deploy.shaping.conditions import Conditions, Direction, Link, Tally
from deploy.shaping.connection import Connection, End, Side, swallowed

__all__ = ["LOOPBACK", "Conditions", "Direction", "Proxy", "Tally"]

LOOPBACK = "127.0.0.1"
_COMMAND_S = 10.0

T = TypeVar("T")


class Proxy:
    """A bad link to one server, on a thread of its own.

    Args:
        upstream_port: Where the server listens.
        upstream_host: Its address.
        port: Where to listen; 0 takes a free port. Always on the loopback interface.
        conditions: At first.
        seed: Of all draws.
        shared: Whether its connections share the bandwidth; otherwise each has all of it.

    Raises:
        OSError: The port is taken (from `start`, or on entering the `with` block).
    """

    def __init__(
        self,
        upstream_port: int,
        *,
        upstream_host: str = LOOPBACK,
        port: int = 0,
        conditions: Conditions | None = None,
        seed: int = 0,
        shared: bool = True,
    ) -> None:
        self._upstream, self.port = (upstream_host, upstream_port), port
        self._link = Link(conditions or Conditions(), seed, shared=shared)
        self._partitioned = False
        self._connections: dict[int, Connection] = {}
        self._strangers: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None

    @property
    def tally(self) -> Tally:
        """What it has done so far."""
        return self._link.tally

    # --- commands, from any thread ------------------------------------------------------------------------------

    def start(self) -> None:
        """Listens; `port` is the port afterwards."""
        self._thread.start()
        try:
            self._do(self._listen())
        except OSError:
            self._end()
            raise

    def stop(self) -> None:
        """Ends all connections and the thread."""
        self._do(self._close())
        self._end()

    def shape(self, conditions: Conditions) -> None:
        """Changes the link from the next chunk on."""
        self._do(self._shape(conditions))

    def stall(self, *, on: bool = True) -> None:
        """Holds everything back, or lets it go: bytes wait, connections stand."""
        self._do(self._hold(on, partition=False))

    def partition(self, *, on: bool = True) -> None:
        """Cuts the link, or mends it: as `stall`, and connections opened meanwhile come to nothing."""
        self._do(self._hold(on, partition=True))

    def reset(self) -> int:
        """Resets every connection now; how many."""
        return self._do(self._each(Connection.reset))

    def half_open(self, *, closed: Side = "server") -> int:
        """Lets one side of every connection vanish in silence; how many there were.

        Args:
            closed: The side whose connection is closed; the other is left talking to nobody.
        """
        return self._do(self._each(lambda connection: connection.half_open(closed)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_COMMAND_S)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_COMMAND_S)
        self._loop.close()

    # --- on the loop --------------------------------------------------------------------------------------------

    def _swallow(self, end: End) -> None:
        self._spawn(swallowed(*end))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio calls this in a task of its own"
        self._tasks.add(task)
        self._link.tally.connections += 1
        number = self._link.tally.connections
        try:
            await self._serve(number, reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.pop(number, None)
            self._link.closed(number)
            self._link.tally.open = len(self._connections)
            self._tasks.discard(task)

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._partitioned:
            self._strangers.add(number)
            await self._link.flowing.wait()
            self._strangers.discard(number)
            writer.transport.abort()
            return
        upstream = await asyncio.open_connection(*self._upstream)
        connection = Connection(self._link, number, {"client": (reader, writer), "server": upstream}, self._swallow)
        self._connections[number] = connection
        self._link.tally.open = len(self._connections)
        try:
            await connection.live()
        except asyncio.CancelledError:
            connection.close()
            raise

    async def _shape(self, conditions: Conditions) -> None:
        self._link.conditions = conditions

    async def _hold(self, on: bool, *, partition: bool) -> None:  # noqa: FBT001 - named by both callers
        self._partitioned = partition and on
        if on:
            self._link.flowing.clear()
        else:
            self._link.flowing.set()

    async def _each(self, change: Callable[[Connection], None]) -> int:
        found = [connection for connection in self._connections.values() if not connection.silent]
        for connection in found:
            change(connection)
        return len(found)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        for connection in tuple(self._connections.values()):
            connection.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets one step later
        await self._loop.shutdown_asyncgens()


def main(arguments: list[str] | None = None) -> int:
    """Runs a proxy until its standard input ends. Prints its port, then obeys one command a line.

    `shape JSON` (`Conditions`), `stall on|off`, `partition on|off`, `reset`, `half-open server|client`, `tally`.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.shaping.proxy", description=__doc__)
    parser.add_argument("upstream_port", type=int)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    with Proxy(chosen.upstream_port, port=chosen.port, seed=chosen.seed) as proxy:
        _say(proxy.port)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            try:
                _say(_obey(proxy, word, rest))
            except (ValueError, KeyError) as error:
                _say(f"error: {line.strip()!r}: {error}")
    return 0


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def _obey(proxy: Proxy, word: str, rest: str) -> object:
    if word == "tally":
        return msgspec.json.encode(proxy.tally).decode()
    if word == "reset":
        return proxy.reset()
    if word == "half-open":
        return proxy.half_open(closed=msgspec.convert(rest, Side))
    if word == "shape":
        proxy.shape(msgspec.json.decode(rest, type=Conditions))
    else:
        {"stall": proxy.stall, "partition": proxy.partition}[word](on={"on": True, "off": False}[rest])
    return "done"


if __name__ == "__main__":
    sys.exit(main())

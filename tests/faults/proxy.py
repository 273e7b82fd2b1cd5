"""A TCP proxy that makes a link bad on purpose: slow, narrow, broken, one-sided or noisy.

It stands before a broker on the loopback interface; what connects to its port reaches the broker through it. `Proxy`
runs an event loop on a thread of its own and is commanded from any other; as a process
(`python -m tests.faults.proxy UPSTREAM_PORT`) it prints its port and takes one command a line, see `main`.

Per direction, a chunk that was read at time t is written at ``t' + latency`` with ``t' = max(t, b − burst / rate)``
and ``b`` the time until which the bytes before it and its own fill the link: a token bucket in its virtual form
(generic cell rate algorithm, ITU-T I.371). The bucket is the link's, shared by all of its connections.

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
import contextlib
import math
import random
import socket
import struct
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self, TypeVar

import msgspec

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 16 * 1024
"""Most that is read at a time; a narrow link reads less, so that its bytes flow evenly."""
WAITING_CHUNKS = 64
"""Chunks of one direction that may be under way; then reading pauses, and TCP holds the sender back."""
_EVEN_S = 0.02
_COMMAND_S = 10.0
_RST = struct.pack("ii", 1, 0)

T = TypeVar("T")
Side = Literal["client", "server"]
Way = Literal["up", "down"]


class Direction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one direction of a link behaves.

    Attributes:
        latency_s: Time that each byte is under way.
        bytes_s: Bandwidth in bytes a second; `None` for no limit.
        burst_bytes: Bytes that may pass at once after a rest.
        reset_probability: That a chunk makes both sides see a reset in its place.
        flip_probability: Of each byte, that one of its bits arrives flipped.
    """

    latency_s: float = 0.0
    bytes_s: float | None = None
    burst_bytes: float = 0.0
    reset_probability: float = 0.0
    flip_probability: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s < math.inf and 0 <= self.burst_bytes < math.inf):
            raise ValueError(f"latency_s = {self.latency_s}, burst_bytes = {self.burst_bytes}: finite, 0 or more")
        if self.bytes_s is not None and not 0 < self.bytes_s < math.inf:
            raise ValueError(f"bytes_s = {self.bytes_s}: above 0, or None for no limit; 'stall' stops a link")
        for name in ("reset_probability", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a probability, from 0 to 1")


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link: `up` from the client to the server behind the proxy, `down` back."""

    up: Direction = Direction()
    down: Direction = Direction()

    @classmethod
    def both(cls, direction: Direction) -> Conditions:
        """The same both ways."""
        return cls(up=direction, down=direction)


class Tally(msgspec.Struct, kw_only=True):
    """What a proxy has done so far."""

    connections: int = 0
    open: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    resets: int = 0
    half_opened: int = 0
    flipped_bits: int = 0


class _Bucket:
    """One direction's bandwidth."""

    def __init__(self) -> None:
        self._filled_s = 0.0

    def passes_s(self, count: int, now_s: float, direction: Direction) -> float:
        """When the last of `count` bytes has passed."""
        if direction.bytes_s is None:
            return now_s
        burst_s = direction.burst_bytes / direction.bytes_s
        self._filled_s = max(self._filled_s, now_s) + count / direction.bytes_s
        return max(now_s, self._filled_s - burst_s)


class _Connection:
    """A client and the server behind, and the two pumps between them. Lives on the proxy's loop."""

    def __init__(self, proxy: Proxy, number: int, ends: dict[Side, tuple[asyncio.StreamReader, asyncio.StreamWriter]]):
        self._proxy, self._ends = proxy, ends
        self._random: dict[Way, random.Random] = {
            way: random.Random(f"{proxy.seed}/{number}/{way}") for way in ("up", "down")
        }
        self._to_flip = dict.fromkeys(self._random, -1)
        self.silent = False
        self._pumps: list[asyncio.Task[None]] = []

    async def live(self) -> None:
        """Forwards until both directions have ended."""
        self._pumps = [
            asyncio.create_task(self._pump("up", "client", "server")),
            asyncio.create_task(self._pump("down", "server", "client")),
        ]
        await asyncio.wait(self._pumps)
        self.close()

    async def _pump(self, way: Way, source: Side, sink: Side) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_CHUNKS)
        writer = asyncio.create_task(self._deliver(way, queue, sink))
        try:
            await self._collect(way, source, queue)
            await queue.put((0.0, b""))
            await writer
        except (OSError, asyncio.IncompleteReadError):
            self.close()  # one side is gone: the other hears of it
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await writer

    async def _collect(self, way: Way, source: Side, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Reads chunks and says when each is due at the other end."""
        loop, reader = asyncio.get_running_loop(), self._ends[source][0]
        while chunk := await reader.read(_chunk_bytes(self._proxy.direction(way))):
            await self._proxy.flowing.wait()
            direction = self._proxy.direction(way)
            if self._random[way].random() < direction.reset_probability:
                self.reset()
                return
            passes_s = self._proxy.buckets[way].passes_s(len(chunk), loop.time(), direction)
            await queue.put((passes_s + direction.latency_s, self._noisy(way, chunk, direction.flip_probability)))

    async def _deliver(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]], sink: Side) -> None:
        loop, writer = asyncio.get_running_loop(), self._ends[sink][1]
        while True:
            due_s, chunk = await queue.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self._proxy.flowing.wait()
            if self.silent:
                continue
            if not chunk:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            self._proxy.forwarded(way, len(chunk))
            writer.write(chunk)
            await writer.drain()

    def _noisy(self, way: Way, chunk: bytes, probability: float) -> bytes:
        """The chunk with bits flipped; gaps between flips are geometric, so that chunk borders do not matter."""
        if probability <= 0.0:
            return chunk
        draws, noisy = self._random[way], bytearray(chunk)
        if self._to_flip[way] < 0:
            self._to_flip[way] = _gap(draws, probability)
        while self._to_flip[way] < len(noisy):
            noisy[self._to_flip[way]] ^= 1 << draws.randrange(8)
            self._proxy.tally.flipped_bits += 1
            self._to_flip[way] += 1 + _gap(draws, probability)
        self._to_flip[way] -= len(noisy)
        return bytes(noisy)

    def reset(self) -> None:
        """An RST to both sides."""
        self._proxy.tally.resets += 1
        for _, writer in self._ends.values():
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            writer.transport.abort()
        self._stop()

    def half_open(self, closed: Side) -> None:
        """Closes one side; what the other sends is swallowed, and it hears nothing, not even an end."""
        self._proxy.tally.half_opened += 1
        self.silent = True
        writer = self._ends[closed][1]
        writer.transport.abort()
        self._stop()
        self._proxy.swallow(self._ends["server" if closed == "client" else "client"])

    def _stop(self) -> None:
        for pump in self._pumps:
            pump.cancel()

    def close(self) -> None:
        """Ends both sides, except one that must not hear of it."""
        if self.silent:
            return
        for _, writer in self._ends.values():
            writer.close()
        self._stop()


def _chunk_bytes(direction: Direction) -> int:
    if direction.bytes_s is None:
        return CHUNK_BYTES
    return max(1, min(CHUNK_BYTES, int(direction.bytes_s * _EVEN_S)))


def _gap(draws: random.Random, probability: float) -> int:
    """Bytes that pass unharmed before the next flip."""
    if probability >= 1.0:
        return 0
    return int(math.log(1.0 - draws.random()) / math.log1p(-probability))


class Proxy:
    """A bad link to one server, on a thread of its own.

    Args:
        upstream_port: Where the server listens.
        upstream_host: Its address.
        port: Where to listen; 0 takes a free port. Always on the loopback interface.
        conditions: At first.
        seed: Of all draws.

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
    ) -> None:
        self._upstream, self.port, self.seed = (upstream_host, upstream_port), port, seed
        self.conditions = conditions or Conditions()
        self.tally = Tally()
        self.flowing = asyncio.Event()
        self.buckets: dict[Way, _Bucket] = {"up": _Bucket(), "down": _Bucket()}
        self._partitioned = False
        self._connections: dict[int, _Connection] = {}
        self._strangers: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None

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
        return self._do(self._each(_Connection.reset))

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

    def direction(self, way: Way) -> Direction:
        """How a direction behaves now."""
        return self.conditions.up if way == "up" else self.conditions.down

    def forwarded(self, way: Way, count: int) -> None:
        """Counts bytes that were handed on."""
        if way == "up":
            self.tally.bytes_up += count
        else:
            self.tally.bytes_down += count

    def swallow(self, end: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Reads a deserted end empty until its peer gives it up, and says nothing to it."""
        self._spawn(_swallowed(*end))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        self.flowing.set()
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio calls this in a task of its own"
        self._tasks.add(task)
        self.tally.connections += 1
        number = self.tally.connections
        try:
            await self._serve(number, reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.pop(number, None)
            self.tally.open = len(self._connections)
            self._tasks.discard(task)

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._partitioned:
            self._strangers.add(number)
            await self.flowing.wait()
            self._strangers.discard(number)
            writer.transport.abort()
            return
        upstream = await asyncio.open_connection(*self._upstream)
        connection = _Connection(self, number, {"client": (reader, writer), "server": upstream})
        self._connections[number] = connection
        self.tally.open = len(self._connections)
        try:
            await connection.live()
        except asyncio.CancelledError:
            connection.close()
            raise

    async def _shape(self, conditions: Conditions) -> None:
        self.conditions = conditions

    async def _hold(self, on: bool, *, partition: bool) -> None:  # noqa: FBT001 - named by both callers
        self._partitioned = partition and on
        if on:
            self.flowing.clear()
        else:
            self.flowing.set()

    async def _each(self, change: Callable[[_Connection], None]) -> int:
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


async def _swallowed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(CHUNK_BYTES):
            pass
    except OSError:
        pass
    finally:
        writer.transport.abort()


def main(arguments: list[str] | None = None) -> int:
    """Runs a proxy until its standard input ends. Prints its port, then obeys one command a line.

    `shape JSON` (`Conditions`), `stall on|off`, `partition on|off`, `reset`, `half-open server|client`, `tally`.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.faults.proxy", description=__doc__)
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

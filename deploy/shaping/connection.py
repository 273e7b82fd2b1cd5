"""One TCP connection through a bad link: two pumps, and the ways in which it can break."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import struct
from collections.abc import Callable
from typing import Literal

from deploy.shaping.conditions import Direction, Link, Way

CHUNK_BYTES = 16 * 1024
"""Most that is read at a time; a narrow link reads less, so that its bytes flow evenly."""
WAITING_CHUNKS = 64
"""Chunks of one direction that may be under way; then reading pauses, and TCP holds the sender back."""
_EVEN_S = 0.02
_RST = struct.pack("ii", 1, 0)

Side = Literal["client", "server"]
End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connection:
    """A client and the server behind, and the two pumps between them. Lives on the loop of its link.

    Args:
        link: What it is a part of.
        number: Its own within the link: decides its draws.
        ends: The two sides.
        swallow: Takes an end that is deserted: reads it until its peer gives up, and says nothing to it.
    """

    def __init__(self, link: Link, number: int, ends: dict[Side, End], swallow: Callable[[End], None]) -> None:
        self._link, self._number, self._ends, self._swallow = link, number, ends, swallow
        self._random: dict[Way, random.Random] = {
            way: random.Random(f"{link.seed}/{number}/{way}")  # noqa: S311 - faults, no secret
            for way in ("up", "down")
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
        while chunk := await reader.read(_chunk_bytes(self._link.direction(way))):
            await self._link.flowing.wait()
            direction = self._link.direction(way)
            if self._random[way].random() < direction.reset_probability:
                self.reset()
                return
            due_s = self._link.due_s(way, len(chunk), loop.time(), self._number)
            await queue.put((due_s, self._noisy(way, chunk, direction.flip_probability)))

    async def _deliver(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]], sink: Side) -> None:
        loop, writer = asyncio.get_running_loop(), self._ends[sink][1]
        while True:
            due_s, chunk = await queue.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self._link.flowing.wait()
            if self.silent:
                continue
            if not chunk:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            self._link.forwarded(way, len(chunk))
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
            self._link.tally.flipped_bits += 1
            self._to_flip[way] += 1 + _gap(draws, probability)
        self._to_flip[way] -= len(noisy)
        return bytes(noisy)

    def reset(self) -> None:
        """An RST to both sides."""
        self._link.tally.resets += 1
        for _, writer in self._ends.values():
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            writer.transport.abort()
        self._stop()

    def half_open(self, closed: Side) -> None:
        """Closes one side; what the other sends is swallowed, and it hears nothing, not even an end."""
        self._link.tally.half_opened += 1
        self.silent = True
        writer = self._ends[closed][1]
        writer.transport.abort()
        self._stop()
        self._swallow(self._ends["server" if closed == "client" else "client"])

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


async def swallowed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a deserted end empty until its peer gives it up, and says nothing to it."""
    try:
        while await reader.read(CHUNK_BYTES):
            pass
    except OSError:
        pass
    finally:
        writer.transport.abort()

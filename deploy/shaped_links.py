"""Links of emulated boards: `python -m deploy.shaped_links CONFIG.toml` stands before the broker until SIGTERM.

One port a kind of link; every connection has the whole bandwidth of its kind, as boards of their own have.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from contract.configuration import decode_toml
from contract.errors import EnvironmentFaultError, SpikeleakError
from deploy.board import LinkProfile
from deploy.shaping.conditions import Conditions, Direction
from deploy.shaping.proxy import Proxy

Port = Annotated[int, Meta(ge=1, le=65535)]


class ShapedLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of link and the port at which devices find it."""

    port: Port
    link: LinkProfile


class ShapedLinks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process is told.

    Attributes:
        upstream_host: The broker.
        upstream_port: Its port.
        links: The kinds of link.
    """

    upstream_host: str
    upstream_port: Port
    links: tuple[ShapedLink, ...]


def conditions(link: LinkProfile) -> Conditions:
    """A board's link as the proxy takes it."""
    rate = None if link.rate_kbit_s is None else 1e3 * link.rate_kbit_s / 8
    return Conditions.both(Direction(latency_s=link.latency_ms / 1e3, bytes_s=rate))


def serve(settings: ShapedLinks, stop: threading.Event) -> None:
    """Shapes until `stop`.

    Raises:
        EnvironmentFaultError: A port is taken.
    """
    upstream = settings.upstream_host
    with contextlib.ExitStack() as stack:
        for shaped in settings.links:
            proxy = Proxy(
                settings.upstream_port,
                upstream_host=upstream,
                port=shaped.port,
                conditions=conditions(shaped.link),
                shared=False,
            )
            try:
                stack.enter_context(proxy)
            except OSError as error:
                raise EnvironmentFaultError(f"shaped link: port {shaped.port} is taken ({error.strerror})") from error
        stop.wait()


def main() -> int:
    """Reads the settings, serves, returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        serve(decode_toml(Path(sys.argv[1]), ShapedLinks), stop)
    except SpikeleakError as error:
        print(f"shaped links: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

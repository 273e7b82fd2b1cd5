"""Where the command `spikeleak` begins: says plainly what is missing on a machine with a board's installation."""

from __future__ import annotations

import sys

_MISSING = 2
_INTERRUPTED = 130


def main() -> None:
    """Runs the command line.

    A board's installation (no extras) holds `spikeleak-client` alone in working order: it lacks what this needs.
    """
    try:
        from deploy.cli import main as run  # noqa: PLC0415 - brings typer and rich
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed: pip install 'spikeleak[lab]' (laptop) or 'spikeleak[server]'; "
            "a device runs spikeleak-client",
            file=sys.stderr,
        )
        sys.exit(_MISSING)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()

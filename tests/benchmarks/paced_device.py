"""A device whose local training takes a set time: `main` runs the product's own, and sleeps for what is left of it.

The sleep lies inside the window of the phase `train`, so that the ledger shows how long training really took.
"""

from __future__ import annotations

import time

from edge_client import app, training


def main(arguments: list[str]) -> int:
    """Runs one device.

    Args:
        arguments: Configuration file, and seconds that a training takes.
    """
    config, seconds = arguments
    trained = training.local_update

    def paced(*args: object, **kwargs: object) -> training.LocalUpdate:
        began_s = time.monotonic()
        made = trained(*args, **kwargs)  # type: ignore[arg-type]
        time.sleep(max(0.0, float(seconds) - (time.monotonic() - began_s)))
        return made

    training.local_update = paced
    return app.main([config, "--log-level", "warning"])

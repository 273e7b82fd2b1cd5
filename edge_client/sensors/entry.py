"""The user's own Python file: a factory that gives samples, from whatever sensor it knows how to read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType

from contract.errors import ConfigurationError
from contract.task import OwnData
from edge_client.sensors.sample import Sample
from edge_client.sensors.settings import SensorSettings


def read_entry(settings: SensorSettings, _data: OwnData) -> Iterator[Sample]:
    """What the factory gives: pairs of an array in [0, 1] and a label.

    The file is executed on the device that names it, and by nobody else.

    Raises:
        ConfigurationError: The file or its factory is not there, it fails, or gives something else.
    """
    factory = getattr(_module(settings), settings.factory, None)
    if not callable(factory):
        raise ConfigurationError(f"{settings.named}: the file has no callable {settings.factory!r}")
    given = 0
    try:
        for pair in factory():
            place = f"{settings.named}, sample {given}"
            yield _sample(pair, place)
            given += 1
    except (ConfigurationError, GeneratorExit):
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{settings.named}: fails after {given} samples: {type(error).__name__}: {error}"
        ) from error


def _sample(pair: object, place: str) -> Sample:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ConfigurationError(f"{place}: is no pair of an array and a label: {str(pair)[:80]}")
    return Sample(values=pair[0], label=pair[1], place=place, scaled=True)


def _module(settings: SensorSettings) -> ModuleType:
    spec = importlib.util.spec_from_file_location("spikeleak_sensor", settings.path)
    if not settings.path.is_file() or spec is None or spec.loader is None:
        raise ConfigurationError(f"{settings.named}: {settings.path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigurationError(f"{settings.named}: cannot be imported: {type(error).__name__}: {error}") from error
    return module

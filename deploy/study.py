"""A study: one run as one TOML, decoded into frozen records.

Each component receives its own section, never the tree.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli_w
from msgspec import Meta

from attack.threat import ThreatModel
from contract.configuration import decode_tables, read_toml
from contract.datasets import check_encoding, check_partition, task_info
from contract.encodings import SERIES, input_shape
from contract.errors import ConfigurationError
from contract.messages import MAX_CANDIDATES
from contract.perceptual import Perceptual
from contract.task import FLOAT_BITS, TaskSpec
from contract.topics import valid_name
from deploy.attendance import ChurnSection
from deploy.broker import BrokerSection
from deploy.fleet import DeviceGroup, boards_of
from edge_client.engine import ENGINES, check_engine
from edge_client.sensors.settings import SensorSettings
from hardware.energy_model import EnergyModel
from hardware.errors import MeterError
from hardware.meter import open_meters
from server.settings import AdmissionSettings, PrivacySettings, ScheduleEntry

STUDIES = Path(__file__).parent / "studies"
LONGEST_NAME = 48
"""Of a study: its runs' names add the arm and a token, and a name on the wire has at most 63 characters."""


class TwinSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[twin]`: run the ANN twin of the task as well.

    Attributes:
        activation: What stands in place of each neuron.
        learning_rate: Local learning rate of the twin's training rounds; `None` takes the schedule's.
    """

    activation: Literal["sigmoid", "relu"] = "sigmoid"
    learning_rate: Annotated[float, Meta(gt=0)] | None = None


class DevicesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[devices]`: what every emulated device runs.

    Attributes:
        engine: Training engine: `onnx`, what a board runs, `torch`, or `loihi`: `onnx`, with inference on a Loihi 2 or
            its simulation beside (`make loihi`).
        meter: Energy meters of each device: `none`, `auto`, `rapl`, `replay:FILE` …, several joined by ``+``. Emulated
            devices share one machine, so that a meter of the machine does not tell them apart: the default is `none`
            (modelled energy only). With boards in `group`, what one measures is labelled `emulated`.
        baseline_s: Seconds of idle in which each device measures its idle power, where it has a meter; devices that
            share a process leave it out.
        energy_profile: Board profile of the modelled energy: a name, or the path of a file of your own that ends in
            `.toml` (hardware/README.md says how; `spikeleak meter --calibrate` makes one).
        radio_mbit_s: Rate of each device's link at which its modelled sending lasts; `None` takes the time until the
            acknowledgement. With it the modelled joules of a run with a `seed` are the same on any machine.
        threads: Threads of each device's engine.
        lpips: ONNX file with LPIPS and its weights, see `contract.perceptual`; `None`: scores are without it.
        seed: Makes the devices' draws, and with them the run, repeatable; no other party is told. `None`: every run
            draws anew.
        per_process: Devices in one process. 1: each has a process of its own, as close to a board as this machine
            comes. More share a process, its engine, graphs and data, each with its own name, connection, will and
            spool: hundreds fit a laptop (`meter` must then be `none` or `replay`, and `cpu_share` becomes a rest
            before each training; memory is not limited).
        sync: Whether a device's writes are on the disk before it goes on, as on a board. `None`: when each has a
            process of its own. Without it what is stored survives a killed process, but not a power cut.
        group: Devices that stand in for boards, in the order of their names; the others are this machine as it is.
        churn: When devices come and go; `None`: they stay.
        sensor: Where each device's own samples come from, for `task.dataset = "own"`, as a device's settings have it;
            `{index}` in it stands for the device's number, from 0, so that each reads a file or folder of its own.
    """

    engine: str = "onnx"
    meter: str = "none"
    baseline_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    energy_profile: str = "horowitz-45nm"
    radio_mbit_s: Annotated[float, Meta(gt=0)] | None = None
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    lpips: Path | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    per_process: Annotated[int, Meta(ge=1, le=2000)] = 1
    sync: bool | None = None
    group: tuple[DeviceGroup, ...] = ()
    churn: ChurnSection | None = None
    sensor: SensorSettings | str | None = None

    def sensor_of(self, index: int) -> SensorSettings | str | None:
        """The sensor of one device."""
        if self.sensor is None or isinstance(self.sensor, str):
            return self.sensor and self.sensor.replace("{index}", str(index))
        path = Path(str(self.sensor.path).replace("{index}", str(index)))
        return msgspec.structs.replace(self.sensor, path=path.resolve())


class ServerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]`.

    Attributes:
        drain_s: Seconds without progress that the server waits for scores after the last round.
        export: Whether the task's ONNX graphs are made and published; engine `onnx` needs them.
        evaluate: Whether each version of the model is evaluated on the held-out samples. It takes the server's time
            between rounds, which counts in runs of hundreds of short rounds.
        held_out: For `task.dataset = "own"`: samples to evaluate on, as `server.settings.ServerSettings.held_out`.
        admission: Limits of the admission checks.
        privacy: How the privacy of rounds with noise is stated.
    """

    drain_s: Annotated[float, Meta(gt=0)] = 60.0
    export: bool = True
    evaluate: bool = True
    held_out: Path | None = None
    admission: AdmissionSettings = AdmissionSettings()
    privacy: PrivacySettings = PrivacySettings()


class AttackSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[attack]`.

    Attributes:
        attacks: Names of the attacks to run; `None` runs the whole ladder, `[]` runs no attacker at all: nothing is
            mirrored, and the report says that nobody attacked.
        budget_s: Processor seconds per update, shared by the attacks of the ladder.
        noise_controls: The first audit updates, so many, are attacked a second time with noise in their place.
        candidates: Samples drawn from the data set, by chance in an update or not, about which the attacker asks
            whether they are in. 0: none.
        queue: Mirrored updates that may wait.
        threads: Threads of each attack process.
        workers: Attack processes; they share the updates out among themselves.
        threat: What the attacker knows.
    """

    attacks: tuple[str, ...] | None = None
    budget_s: Annotated[float, Meta(gt=0)] = 10.0
    noise_controls: Annotated[int, Meta(ge=0)] = 2
    candidates: Annotated[int, Meta(ge=0, le=MAX_CANDIDATES)] = 0
    queue: Annotated[int, Meta(ge=1)] = 256
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    threat: ThreatModel = ThreatModel()


class TruthSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[truth]`: lab mode.

    Attributes:
        publish: Devices publish the true inputs of audited updates, so that the report can show them. In a study that
            emulates its devices the data is public anyway; a real device's default is `false`.
    """

    publish: bool = True


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run. See `deploy/studies/demo.toml` for one with every section.

    Attributes:
        task: What is learnt. `[task.model]` describes one of the project's networks.
        model: `FILE.py:FACTORY` of your own network in its place (leave `[task.model]` out), beside the study unless
            the path is absolute. The factory takes nothing and returns an `nn.Module` that maps frames
            `[T, B, *shape]` to logits `[B, classes]`. Server and attacker execute the file; devices get its ONNX graph.
        schedule: Kinds of rounds in their order.
        repeat: How often the schedule is gone through.
    """

    name: str
    clients: Annotated[int, Meta(ge=1, le=2000)] = 4
    task: TaskSpec = TaskSpec()
    model: str | None = None
    schedule: Annotated[tuple[ScheduleEntry, ...], Meta(min_length=1)]
    repeat: Annotated[int, Meta(ge=1, le=1000)] = 1
    twin: TwinSection | None = None
    broker: BrokerSection = BrokerSection()
    server: ServerSection = ServerSection()
    devices: DevicesSection = DevicesSection()
    attack: AttackSection = AttackSection()
    truth: TruthSection = TruthSection()


def _check(origin: str, key: str, test: Callable[[], object]) -> None:
    """Runs a room's own check of one value and names the key in its error."""
    try:
        test()
    except (ConfigurationError, MeterError, ValueError) as error:
        raise ConfigurationError(f"{origin}: {key}: {error}") from error


def _check_attacks(names: tuple[str, ...]) -> None:
    if not names:
        return
    from attack.methods import KNOWN  # noqa: PLC0415 - brings torch

    for name in names:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(f"{name!r}: {hint}known attacks: {', '.join(KNOWN)}")


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One federated run of a study: the task itself, or its twin."""

    label: str
    task: TaskSpec
    schedule: tuple[ScheduleEntry, ...]
    directory: Path


def load_study(path: Path) -> Study:
    """Reads and checks a study.

    Raises:
        ConfigurationError: Names file, key, value and what is allowed.
    """
    return study_of(read_toml(path), path, origin=str(path))


def study_of(tables: dict[str, Any], path: Path, *, origin: str) -> Study:
    """A study from parsed tables.

    Args:
        tables: As in a study's file.
        path: The file that relative paths in them belong to.
        origin: What errors name.

    Raises:
        ConfigurationError: As `load_study`.
    """
    study = decode_tables(tables, Study, origin=origin)
    study = check_study(_with_own_network(study, path), origin=origin)
    return msgspec.structs.replace(study, schedule=study.schedule * study.repeat, repeat=1)


def _with_own_network(study: Study, path: Path) -> Study:
    """The study with an absolute `model`, and the task that states that network."""
    if study.model is None:
        if study.task.model.own is not None:
            raise ConfigurationError(f"{path}: task.model.own is given without model = 'FILE.py:FACTORY'")
        return study
    from contract.models.own import user_network  # noqa: PLC0415 - brings torch

    named = f"{path}: model = {study.model!r}"
    _check(str(path), "task.dataset", lambda: task_info(study.task))
    info = task_info(study.task)
    file, colon, factory = study.model.rpartition(":")
    spec = f"{path.resolve().parent / file}:{factory}" if colon else study.model
    shape = input_shape(study.task.encoding, info.shape)
    _, task = user_network(spec, study.task, shape, info.classes, named=named)
    return msgspec.structs.replace(study, task=task, model=spec)


def check_study(study: Study, *, origin: str) -> Study:
    """What a type alone cannot say.

    Raises:
        ConfigurationError: As `load_study`.
    """
    if not valid_name(study.name) or len(study.name) > LONGEST_NAME:
        raise ConfigurationError(f"{origin}: name = {study.name!r}: 1 to {LONGEST_NAME} letters, digits, '_', '.', '-'")
    _check(origin, "task.dataset", lambda: task_info(study.task))
    _check(origin, "task.encoding", lambda: check_encoding(study.task.encoding, task_info(study.task)))
    _check(origin, "task.partition", lambda: check_partition(study.task.partition, task_info(study.task)))
    _check_own_data(study, origin)
    for arm in arms(study, Path()):
        _check(origin, "devices.engine", partial(check_engine, study.devices.engine, arm.task))
    if ENGINES[study.devices.engine].needs and not study.server.export:
        raise ConfigurationError(
            f"{origin}: server.export = false: devices.engine = {study.devices.engine!r} needs the graphs; "
            "leave it out, or set devices.engine = 'torch'"
        )
    _check(origin, "devices.meter", lambda: _open_and_close(study.devices.meter))
    _check(origin, "devices.energy_profile", lambda: EnergyModel.load(study.devices.energy_profile))
    _check(origin, "devices.lpips", lambda: study.devices.lpips and Perceptual(study.devices.lpips))
    _check(origin, "attack.attacks", lambda: _check_attacks(study.attack.attacks or ()))
    _check_fleet(study, origin)
    if study.task.model.own is not None:
        _check_own_network(study, origin)
    if study.twin is not None and study.task.model.family != "snn":
        raise ConfigurationError(f"{origin}: [twin] asks for the ANN twin, but task.model.family is already 'ann'")
    for number, entry in enumerate(study.schedule):
        for key in ("clients", "min_updates"):
            value = getattr(entry, key)
            if value is not None and value > study.clients:
                raise ConfigurationError(
                    f"{origin}: schedule[{number}].{key} = {value}: the run has clients = {study.clients}"
                )
        _check(origin, f"schedule[{number}]", lambda entry=entry: entry.require_updates(study.clients))  # type: ignore[misc]
        for count in (study.clients, entry.clients):
            _check(origin, f"schedule[{number}]", lambda e=entry, n=count: e.require_devices("clients", n))  # type: ignore[misc]
    return study


def _open_and_close(meters: str) -> None:
    for meter in open_meters(meters):
        meter.close()


def _check_fleet(study: Study, origin: str) -> None:
    """What does not go with emulated boards."""
    devices = study.devices
    _check(origin, "devices", lambda: boards_of(devices.group, study.clients, devices.energy_profile))
    boards = boards_of(devices.group, study.clients, devices.energy_profile)
    for board in dict.fromkeys(boards):
        named = f"devices.group board {board.name!r}: energy_profile"
        _check(origin, named, lambda board=board: EnergyModel.load(board.energy_profile))  # type: ignore[misc]
    if devices.per_process > 1 and devices.meter.partition(":")[0] not in {"none", "replay"}:
        raise ConfigurationError(
            f"{origin}: devices.meter = {devices.meter!r} with per_process = {devices.per_process}: devices of one "
            "process cannot be told apart by a meter; set meter = 'none', or per_process = 1"
        )


def _check_own_data(study: Study, origin: str) -> None:
    """What goes with data of the devices' own, and only with it."""
    own = study.task.own_data is not None
    for key, value in (("devices.sensor", study.devices.sensor), ("server.held_out", study.server.held_out)):
        if value is not None and not own:
            raise ConfigurationError(
                f"{origin}: {key} is set, but task.dataset = {study.task.dataset!r}: it goes with dataset = 'own' alone"
            )
    if own and study.devices.sensor is None:
        raise ConfigurationError(f"{origin}: task.dataset = 'own' without [devices.sensor]: nobody would have a sample")
    if own and study.attack.candidates:
        raise ConfigurationError(
            f"{origin}: attack.candidates = {study.attack.candidates}: they are drawn from a data set, and "
            "task.dataset = 'own' has none; set 0"
        )


def _check_own_network(study: Study, origin: str) -> None:
    """What does not go with a network of the user's own."""
    if not ENGINES[study.devices.engine].needs:
        raise ConfigurationError(
            f"{origin}: devices.engine = {study.devices.engine!r} with model: devices get the network's graph, never "
            "its code; set devices.engine = 'onnx'"
        )
    if study.twin is not None:
        raise ConfigurationError(f"{origin}: [twin] with model: your own network has no known twin; leave [twin] out")


def arms(study: Study, out: Path) -> list[Arm]:
    """The federated runs of a study: the task, and its twin when asked for."""
    label = study.task.model.family if study.task.model.own is None else "own"
    found = [Arm(label=label, task=study.task, schedule=study.schedule, directory=out)]
    if study.twin is not None:
        model = msgspec.structs.replace(study.task.model, family="ann", activation=study.twin.activation)
        schedule = tuple(_twin_entry(entry, study.twin) for entry in study.schedule)
        # A network without time sees whole intensities, not one step of their spikes.
        gain = 1.0 if study.task.encoding.kind in SERIES else study.task.encoding.gain
        encoding = msgspec.structs.replace(study.task.encoding, kind="direct", gain=gain)
        task = msgspec.structs.replace(study.task, model=model, encoding=encoding)
        found.append(Arm(label="twin", task=task, schedule=schedule, directory=out / "twin"))
    return found


def _twin_entry(entry: ScheduleEntry, twin: TwinSection) -> ScheduleEntry:
    if twin.learning_rate is None or entry.kind != "train":
        return entry
    return msgspec.structs.replace(entry, learning_rate=twin.learning_rate)


def to_toml(value: msgspec.Struct) -> str:
    """A record as TOML text; absent optional values are left out, as TOML has no null, or spelt as `_SPELT` says."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(value, enc_hook=str)))


_SPELT = {"weight_bits": FLOAT_BITS}
"""Keys whose default is not the absent value."""


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        told = {key: _SPELT.get(key) if item is None else item for key, item in value.items()}
        return {key: _without_none(item) for key, item in told.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value


def resized(study: Study, *, clients: int | None, rounds: int | None) -> Study:
    """The study with another number of devices or of training rounds; audits are kept.

    Args:
        study: The study.
        clients: Number of devices; `None` leaves it.
        rounds: Training rounds in all, spread over the schedule's training entries; `None` leaves them.
    """
    if clients is not None:
        schedule = tuple(_at_most(entry, clients) for entry in study.schedule)
        study = msgspec.structs.replace(study, clients=clients, schedule=schedule)
    if rounds is not None:
        study = msgspec.structs.replace(study, schedule=_spread(study.schedule, rounds))
    return study


def _at_most(entry: ScheduleEntry, clients: int) -> ScheduleEntry:
    def capped(value: int | None) -> int | None:
        return None if value is None else min(value, clients)

    return msgspec.structs.replace(entry, clients=capped(entry.clients), min_updates=capped(entry.min_updates))


def _spread(schedule: tuple[ScheduleEntry, ...], rounds: int) -> tuple[ScheduleEntry, ...]:
    """Deals `rounds` to the training entries as evenly as it goes; entries that get none are left out."""
    training = [e for e in schedule if e.kind == "train"]
    if not training:
        raise ConfigurationError("--rounds: the study has no training rounds")
    share, rest = divmod(rounds, len(training))
    counts = iter([share + (i < rest) for i in range(len(training))])
    numbered = [(e, next(counts) if e.kind == "train" else e.rounds) for e in schedule]
    return tuple(msgspec.structs.replace(e, rounds=n) for e, n in numbered if n > 0)

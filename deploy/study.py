"""A study: one run as one TOML, decoded into frozen records.

Each component receives its own section, never the tree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from attack.clock import Clock
from attack.threat import ThreatModel
from contract.configuration import decode_tables, read_toml
from contract.datasets import task_info
from contract.encodings import input_shape
from contract.errors import ConfigurationError
from contract.messages import MAX_CANDIDATES
from contract.task import TaskSpec
from deploy.arms import Arm, arms
from deploy.attendance import ChurnSection
from deploy.broker import BrokerSection
from deploy.fleet import DeviceGroup
from deploy.resizing import resized
from deploy.study_checks import LONGEST_NAME, check, check_study
from deploy.study_text import to_toml
from edge_client.sensors.settings import SensorSettings
from server.settings import AdmissionSettings, PrivacySettings, ScheduleEntry, Vantage

__all__ = [
    "LONGEST_NAME",
    "STUDIES",
    "Arm",
    "AttackSection",
    "DevicesSection",
    "ServerSection",
    "Study",
    "TruthSection",
    "TwinSection",
    "arms",
    "check_study",
    "load_study",
    "resized",
    "study_of",
    "to_toml",
]

STUDIES = Path(__file__).parent / "studies"


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
        budget_s: Seconds per update, shared by the attacks of the ladder.
        clock: What these seconds are: `processor` time, or nominal seconds of `work`, which give the same findings on
            any machine however busy (`attack.settings`).
        noise_controls: The first audit updates, so many, are attacked a second time with noise in their place.
        candidates: Samples drawn from the data set, by chance in an update or not, about which the attacker asks
            whether they are in. 0: none.
        queue: Mirrored updates that may wait.
        threads: Threads of each attack process.
        workers: Attack processes; they share the updates out among themselves. On a cluster each is a task of its own.
        vantages: From where updates are looked at: `server`, and `fellow` for what the first device reads off
            successive models as well, in rounds that move the model by the plain mean.
        threat: What the attacker knows.
    """

    attacks: tuple[str, ...] | None = None
    budget_s: Annotated[float, Meta(gt=0)] = 10.0
    clock: Clock = "processor"
    noise_controls: Annotated[int, Meta(ge=0)] = 2
    candidates: Annotated[int, Meta(ge=0, le=MAX_CANDIDATES)] = 0
    queue: Annotated[int, Meta(ge=1)] = 256
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    vantages: tuple[Vantage, ...] = ("server",)
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
    check(str(path), "task.dataset", lambda: task_info(study.task))
    info = task_info(study.task)
    file, colon, factory = study.model.rpartition(":")
    spec = f"{path.resolve().parent / file}:{factory}" if colon else study.model
    shape = input_shape(study.task.encoding, info.shape)
    _, task = user_network(spec, study.task, shape, info.classes, named=named)
    return msgspec.structs.replace(study, task=task, model=spec)

"""What an audit is told, and what of it cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, TypeVar, get_args

import msgspec

from contract.codecs import CODECS
from contract.errors import ConfigurationError

EncodingKind = Literal["direct", "rate", "latency", "events"]
MAX_STEPS = 1000
MAX_SAMPLES = 4096


class AuditRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `spikeleak audit`.

    Attributes:
        model: `FILE.py:FACTORY`.
        weights: Parameters that the update started from, safetensors.
        update: Mean gradients by parameter name, safetensors.
        weights_after: Parameters after local training, in place of `update`.
        input_shape: Shape of one sample.
        encoding: How a sample becomes frames, one of `EncodingKind`. The attacks know `direct` input and binary frames.
        steps: T.
        batch_size: Samples per local step.
        labels: Labels of all samples, when the attacker is to know them.
        codec: What the update went through on its way.
        local_steps: SGD steps between `weights` and `weights_after`.
        learning_rate: Of those steps.
        truth: `x` `[N, *shape]` in [0, 1], optionally `y` `[N]` and `frames` `[N, T, *shape]`; read after the attacks.
        lpips: ONNX file with LPIPS and its weights, made as `contract.perceptual` says; read with `truth` only.
        input_range: What 0 and 1 of a sample become before the network sees them (normalisation).
        budget_s: Wall time for all attacks.
        control: Also attack noise in the update's place.
        exhaustive: Run every attack even after an exact one.
        out: Folder of the results.
    """

    model: str
    weights: Path
    update: Path | None = None
    weights_after: Path | None = None
    input_shape: tuple[int, ...]
    encoding: str
    steps: int
    batch_size: int
    labels: tuple[int, ...] | None = None
    codec: str | None = None
    local_steps: int = 1
    learning_rate: float | None = None
    truth: Path | None = None
    lpips: Path | None = None
    input_range: tuple[float, float] = (0.0, 1.0)
    budget_s: float = 60.0
    control: bool = True
    exhaustive: bool = False
    out: Path

    @property
    def samples(self) -> int:
        """Samples in the update."""
        return self.batch_size * self.local_steps


Number = TypeVar("Number", int, float)


def numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    """A comma-separated list.

    Raises:
        ConfigurationError: Something else.
    """
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigurationError(f"{option} {text}: {what} separated by commas are expected") from error


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raises `ConfigurationError(message)` unless the condition holds."""
    if not condition:
        raise ConfigurationError(message)


def check(request: AuditRequest) -> None:
    """Refuses values that no audit can use.

    Raises:
        ConfigurationError: Names option, value, limit and remedy.
    """
    shape = ",".join(map(str, request.input_shape))
    require(
        len(request.input_shape) > 0 and min(request.input_shape) >= 1,
        f"--input-shape {shape}: every side must be at least 1, for instance 1,28,28",
    )
    kinds = ", ".join(get_args(EncodingKind))
    require(request.encoding in get_args(EncodingKind), f"--encoding {request.encoding}: choose one of {kinds}")
    require(1 <= request.steps <= MAX_STEPS, f"--steps {request.steps}: must lie in 1…{MAX_STEPS}")
    require(request.batch_size >= 1, f"--batch-size {request.batch_size}: must be at least 1")
    require(request.local_steps >= 1, f"--local-steps {request.local_steps}: must be at least 1")
    require(
        request.samples <= MAX_SAMPLES,
        f"--batch-size {request.batch_size} × --local-steps {request.local_steps} = {request.samples} samples: "
        f"at most {MAX_SAMPLES} are attacked",
    )
    require(math.isfinite(request.budget_s) and request.budget_s > 0, f"--budget {request.budget_s}: must be above 0")
    known = ", ".join(CODECS)
    require(request.codec is None or request.codec in CODECS, f"--codec {request.codec}: choose one of {known}")
    low, high = request.input_range
    require(
        math.isfinite(low) and math.isfinite(high) and low < high,
        f"--input-range {low:g},{high:g}: LOW must be below HIGH, both finite",
    )
    _check_update(request)
    _check_labels(request)


def _check_update(request: AuditRequest) -> None:
    given = (request.update is not None) + (request.weights_after is not None)
    require(given == 1, f"--update and --weights-after: {given} of them given; give exactly one")
    if request.update is not None:
        require(
            request.local_steps == 1,
            f"--local-steps {request.local_steps} with --update: a gradient is one step; "
            "give the weights after training as --weights-after W2.safetensors --lr RATE",
        )
        return
    rate = request.learning_rate
    require(
        rate is not None and math.isfinite(rate) and rate > 0,
        f"--lr {rate} with --weights-after: a weight difference needs the learning rate of the local SGD, above 0",
    )


def _check_labels(request: AuditRequest) -> None:
    if request.labels is None:
        return
    require(
        len(request.labels) == request.samples,
        f"--label names {len(request.labels)} labels: the update has {request.samples} samples "
        f"(batch size {request.batch_size} × {request.local_steps} local steps); name all, or leave --label out",
    )

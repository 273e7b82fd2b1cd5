"""What a plan does to an update before it is sent: clip → noise → (error feedback) → codec → zlib.

Both sides read the same stages off the plan: a device runs them (`edge_client.pipeline`), an attacker knows what they
do to the numbers. The order is what makes the privacy guarantee: everything after the noise sees noised values only,
the residual of error feedback included, and is post-processing (Dwork and Roth 2014, proposition 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from contract.codecs import Codec, find_codec
from contract.task import RoundPlan

Tensors = Mapping[str, npt.NDArray[np.float32]]

RETURNED = frozenset({"future", "closed", "uninvited", "plan", "model", "epoch", "second", "stale"})
"""Refusals that say when an update came, not that it is bad: under error feedback its content goes into the next."""

FEEDBACK_CITED = ("seide2014onebit", "karimireddy2019error")
"""Keys of the works that error feedback follows."""
_BELOW = 1 - 2.0**-21
"""So that rounding to float32 leaves a clipped norm at or below the bound."""


class Transform(Protocol):
    """A stage that takes an update and gives one of the same shapes.

    Attributes:
        name: Names its stream of draws.
        unbiased: Whether the expectation over the draws is what went in.
        cited: Keys of the works that it follows (`contract.citations`).
    """

    cited: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def unbiased(self) -> bool: ...  # noqa: D102

    def apply(self, update: Tensors, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        """The update after this stage."""
        ...

    def error_bound(self, update: Tensors) -> float:
        """Largest absolute change of an element; infinite where no bound holds."""
        ...


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """``u min(1, C / |u|_2)``, the norm over all tensors together (Abadi et al. 2016, arXiv 1607.00133).

    Attributes:
        norm: C.
    """

    name: str = "clip"
    unbiased: bool = False
    cited: ClassVar[tuple[str, ...]] = ("abadi2016deep",)
    norm: float

    def _factor(self, update: Tensors) -> float:
        length = euclidean_norm(update)
        return 1.0 if length <= self.norm else self.norm / length * _BELOW

    def apply(self, update: Tensors, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:  # noqa: ARG002
        """Scaled down as a whole, or as it was; not finite where the update is not."""
        factor = np.float32(self._factor(update))
        return {name: tensor * factor for name, tensor in update.items()}

    def error_bound(self, update: Tensors) -> float:
        """What the largest element loses."""
        largest = max((float(np.abs(tensor).max(initial=0.0)) for tensor in update.values()), default=0.0)
        return largest * (1.0 - self._factor(update) + 2.0**-22)


class GaussianNoise(msgspec.Struct, frozen=True, kw_only=True):
    """Adds independent Gaussian noise to each element: the Gaussian mechanism, after `Clip`.

    Drawn in float32 from the update's secret stream. The guarantee is the mechanism's over the reals; attacks on the
    rounding of floating-point noise (Mironov 2012) are not defended against.

    Attributes:
        std: Standard deviation.
    """

    name: str = "noise"
    unbiased: bool = True
    cited: ClassVar[tuple[str, ...]] = ("abadi2016deep", "dwork2014algorithmic")
    std: float

    def apply(self, update: Tensors, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        """Update plus noise."""
        std = np.float32(self.std)
        return {
            name: tensor + std * rng.standard_normal(tensor.shape, dtype=np.float32) for name, tensor in update.items()
        }

    def error_bound(self, update: Tensors) -> float:  # noqa: ARG002
        """None: normal draws have no bound."""
        return np.inf


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's stages, in their order.

    Attributes:
        transforms: Clipping and noise.
        feedback: Whether the codec's input is the update plus what the codec lost before.
        codec: Sparsifies and quantises.
        compression: `zlib` or `none`.
    """

    transforms: tuple[Clip | GaussianNoise, ...]
    feedback: bool
    codec: Codec
    compression: Literal["none", "zlib"]

    @property
    def unbiased(self) -> bool:
        """Whether the expectation of the decoded update is the device's own, for every stage and the whole."""
        return not self.feedback and self.codec.unbiased and all(stage.unbiased for stage in self.transforms)

    @property
    def cited(self) -> tuple[str, ...]:
        """Keys of the works that its stages follow (`contract.citations`)."""
        stages = [key for stage in self.transforms for key in stage.cited]
        return tuple(dict.fromkeys([*stages, *(FEEDBACK_CITED if self.feedback else ()), *self.codec.cited]))


def pipeline(plan: RoundPlan) -> Pipeline:
    """The stages of a plan.

    Under error feedback the codec rounds to the nearest: random rounding is no contraction (for `ternary` its squared
    error exceeds ``|x|^2`` many times over), and what is carried over would grow without bound.
    """
    transforms: list[Clip | GaussianNoise] = []
    if plan.clip_norm is not None:
        transforms.append(Clip(norm=plan.clip_norm))
        if plan.noise_multiplier:
            transforms.append(GaussianNoise(std=plan.noise_multiplier * plan.clip_norm))
    return Pipeline(
        transforms=tuple(transforms), feedback=plan.feeds_back, codec=codec_of(plan), compression=plan.compression
    )


def codec_of(plan: RoundPlan) -> Codec:
    """The plan's codec with the plan's settings."""
    codec = find_codec(plan.codec)
    assert isinstance(codec, msgspec.Struct)
    settings = {"share": plan.share, "rounding": "nearest" if plan.feeds_back else "stochastic"}
    return msgspec.structs.replace(codec, **{k: v for k, v in settings.items() if k in codec.__struct_fields__})


def euclidean_norm(update: Tensors) -> float:
    """``sqrt(sum x^2)`` over all tensors, in float64; not finite when any value is not."""
    total = 0.0
    with np.errstate(invalid="ignore"):  # of a signalling NaN: the sum says it
        for tensor in update.values():
            flat = tensor.astype(np.float64).ravel()
            total += float(flat @ flat)
    return float(np.sqrt(total))

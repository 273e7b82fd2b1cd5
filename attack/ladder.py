"""The ladder: attacks from cheapest to dearest on one observation, each with a verdict; none is left out silently."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import msgspec
import numpy as np

from attack.certificate import certified
from attack.clock import Clock, OverrunError, processor_s, running
from attack.method import MAX_IMAGES, Finding, Method
from attack.threat import NotKnownError, Observation

log = logging.getLogger(__name__)

_LEAST_SHARE = 0.05
"""Fraction of an even share of the budget below which an attack is not begun."""


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One attack on the ladder: what it found and the processor time that it took."""

    attack: str
    finding: Finding
    seconds: float


def refusal(method: Method, observation: Observation) -> str | None:
    """Why the ladder does not run a method on an observation, or `None`."""
    withheld = sorted(method.requires - observation.known)
    if withheld:
        why = observation.reason_unknown(withheld)
        return f"needs {', '.join(withheld)}, which this attacker does not know{why and f': {why}'}"
    return method.applies(observation)


def checked(finding: Finding, shape: tuple[int, ...], image_shape: tuple[int, ...] | None = None) -> Finding:
    """The finding, images clipped to [0, 1] and cut to `MAX_IMAGES`; `failed` when images or objective are unusable.

    Args:
        finding: What a method handed back.
        shape: Of a frame.
        image_shape: Of an image; `None`: the same.
    """
    image_shape = image_shape or shape
    if finding.objective is not None and not np.isfinite(finding.objective):
        return Finding(verdict="failed", reason=f"the objective is {finding.objective}: {finding.reason}")
    if finding.images is None:
        return finding
    images = np.asarray(finding.images, dtype=np.float32)
    if images.shape[1:] != image_shape or len(images) == 0:
        return Finding(
            verdict="failed", reason=f"images of shape {images.shape}, expected [N, {image_shape}], N of at least 1"
        )
    broken = int((~np.isfinite(images)).sum())
    if broken:
        return Finding(verdict="failed", reason=f"{broken} of {images.size} pixels are not finite: {finding.reason}")
    frames = None if finding.frames is None else np.asarray(finding.frames)[:MAX_IMAGES]
    if frames is not None and (frames.shape[2:] != shape or not np.isin(frames, (0, 1)).all()):
        return Finding(verdict="failed", reason=f"frames of shape {frames.shape} are no spikes of {shape}")
    labels = finding.labels[:MAX_IMAGES] if len(finding.labels) == len(images) else finding.labels
    return msgspec.structs.replace(finding, images=np.clip(images[:MAX_IMAGES], 0.0, 1.0), labels=labels, frames=frames)


def sober(observation: Observation, finding: Finding) -> Finding:
    """The finding, no better than `partial` where the update is no gradient of the batch (`Observation.distortion`).

    A certificate or criterion that holds of a sparse or noisy update all the same holds by chance: zero columns are
    then no silent pixels, and few bytes lie on any grid.
    """
    if not observation.distortion or finding.verdict not in {"exact", "recovered"}:
        return finding
    reason = f"{finding.reason}; no certificate: the update is distorted, {observation.distortion}"
    return msgspec.structs.replace(finding, verdict="partial", reason=reason)


def attempt(method: Method, observation: Observation, budget_s: float) -> Finding:
    """Runs one method; whatever it raises is its failure, with the reason."""
    words = np.frombuffer(hashlib.sha256(method.name.encode()).digest()[:16], dtype="<u4")
    rng = np.random.default_rng([observation.seed, *(int(word) for word in words)])
    try:
        reason = refusal(method, observation)
        if reason is not None:
            return Finding(verdict="refused", reason=reason)
        finding = checked(method.run(observation, budget_s, rng), observation.shape, observation.image_shape)
        return sober(observation, certified(observation, finding))
    except NotKnownError as error:
        return Finding(verdict="refused", reason=str(error))
    except OverrunError as error:
        return Finding(verdict="failed", reason=str(error))
    except Exception as error:
        log.exception("attack %s crashed", method.name)
        return Finding(verdict="failed", reason=f"crashed: {type(error).__name__}: {error}")


def climb(
    observation: Observation,
    methods: Mapping[str, Method],
    *,
    budget_s: float,
    exhaustive: bool = False,
    clock: Clock = "processor",
) -> tuple[Rung, ...]:
    """Attacks an observation with each method in turn.

    What is left of the budget is shared evenly by the permitted methods that are still to come, so that what a cheap
    one does not use goes to the dear ones. A method keeps to its share by itself; one that overran leaves less to
    the next.

    Args:
        observation: The update.
        methods: In ladder order.
        budget_s: Seconds of that clock for all of them.
        exhaustive: Go on after a certified exact reconstruction.
        clock: What the budget counts, see `attack.clock`; a rung's seconds are the processor's with either.

    Returns:
        One rung per method, in order, whatever happened.
    """
    rungs: list[Rung] = []
    exact: str | None = None
    waiting = {name for name, method in methods.items() if _permitted(method, observation)}
    with running(clock, budget_s) as spent_s:
        for name, method in methods.items():
            began_s = processor_s()
            share_s = (budget_s - spent_s()) / max(1, len(waiting))
            if exact is not None and not exhaustive:
                reason = f"left out: the reconstruction of {exact!r} is certified exact"
                finding = Finding(verdict="refused", reason=reason)
            elif name in waiting and share_s < _LEAST_SHARE * budget_s / len(methods):
                finding = Finding(verdict="failed", reason=f"not begun: the update's {budget_s:g} s were spent by then")
            else:
                finding = attempt(method, observation, share_s)
            waiting.discard(name)
            exact = name if exact is None and finding.verdict == "exact" and finding.images is not None else exact
            rungs.append(Rung(attack=name, finding=finding, seconds=processor_s() - began_s))
    return tuple(rungs)


def _permitted(method: Method, observation: Observation) -> bool:
    """Whether a method gets a share of the budget; one that crashes here crashes again, and is heard, in `attempt`."""
    try:
        return refusal(method, observation) is None
    except Exception:  # noqa: BLE001 - see above
        return False

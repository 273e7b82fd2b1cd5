"""One audit from options to files."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from attack.ladder import Rung, climb
from attack.methods import METHODS
from attack.noise import noise_observation
from contract.errors import EnvironmentFaultError
from contract.perceptual import Perceptual
from deploy.audit.files import read_truth
from deploy.audit.page import render
from deploy.audit.request import AuditRequest, check
from deploy.audit.results import Audit, outcome, scores, write
from deploy.audit.subject import Subject, subject

LEAST_CONTROL_S = 10.0
"""Processor seconds that the noise control gets at least, where the attacks themselves were done sooner."""


def audit(request: AuditRequest, *, announce: Callable[[Subject], None] = lambda _: None) -> Audit:
    """Loads, checks, attacks, scores and writes.

    Args:
        request: The options.
        announce: Hears of the traced module before the attacks begin.

    Raises:
        ConfigurationError: Options or files that cannot be used.
        EnvironmentFaultError: The output folder cannot be written.
    """
    started_s = time.perf_counter()
    check(request)
    torch.set_num_threads(max(1, min(4, torch.get_num_threads())))
    truth = None if request.truth is None else read_truth(request.truth, request.input_shape, request.samples)
    perceptual = None if request.lpips is None else Perceptual(request.lpips)
    found = subject(request)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFaultError(f"--out {request.out}: cannot be made ({error}); name a folder of yours") from error
    announce(found)
    rungs: tuple[Rung, ...] = climb(
        found.observation, METHODS, budget_s=request.budget_s, exhaustive=request.exhaustive
    )
    result = Audit(
        request=request,
        subject=found,
        rungs=rungs,
        outcome=outcome(found, rungs),
        noise=_noise_control(request, found, rungs),
        truth=truth,
        scores=scores(rungs, truth, perceptual),
        seconds=time.perf_counter() - started_s,
    )
    try:
        write(result)
        (request.out / "report.html").write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise EnvironmentFaultError(f"--out {request.out}: cannot be written ({error})") from error
    return result


def _noise_control(request: AuditRequest, found: Subject, rungs: tuple[Rung, ...]) -> tuple[Rung, ...]:
    """The attacks on noise of the update's shapes and norms, with as much time as they took on the update."""
    if not request.control:
        return ()
    taken_s = sum(rung.seconds for rung in rungs)
    noise = noise_observation(found.observation, np.random.default_rng(found.observation.seed))
    budget_s = min(request.budget_s, max(LEAST_CONTROL_S, taken_s))
    return climb(noise, METHODS, budget_s=budget_s, exhaustive=request.exhaustive)

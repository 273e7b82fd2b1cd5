r"""Generative regression (GRNN): a generator's weights are fitted so that its image *and label* give the gradient.

    min_w ‖g − g*‖² / ‖g*‖² + 10⁻² W₁(g, g*) / mean |g*| + 10⁻³ TV(x),    (x, y) = generator_w(z),  z fixed noise

Ren, Deng and Xie 2022 (arXiv 2105.00529): squared distance, Wasserstein distance and total variation, soft labels from
a branch of their own and 1,000 iterations are kept. A small version: dense layers in place of upsampling convolutions
(inputs need not be images), the Wasserstein distance in one dimension (of sorted entries), both distances divided by
the target's size and the second, which is not smooth, by 100 as well, and Adam in place of RMSprop with momentum 0.99.
For a spiking network the generator gives T relaxed frames per sample, or one under direct coding, and the derivative
goes through the surrogate twice. One start: the Wasserstein distance needs every entry of the gradient, so that
restarts cannot share a batch as those of the other matching attacks do.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from attack.citations import CITATIONS, works
from attack.clock import now_s
from attack.counting import counted
from attack.method import Citation, Finding
from attack.optimisation.descent import Descent, DivergedError, OutOfTimeError
from attack.optimisation.generator import LATENT, Generator
from attack.optimisation.matching import MAX_SAMPLES, NEEDS, RECOVERED
from attack.optimisation.objectives import relative_square, square, wasserstein
from attack.optimisation.optimisers import adam
from attack.optimisation.priors import total_variation
from attack.optimisation.sources import SOURCES
from attack.simulation import Simulator
from attack.threat import Knowledge, Observation

ITERATIONS = 1000
SMOOTHNESS = 1e-3
TRANSPORT = 1e-2
MAX_OUTPUTS = 50_000
"""Largest number of relaxed inputs: the generator has 128 weights for each."""


class GenerativeRegression(msgspec.Struct, frozen=True, kw_only=True):
    """GRNN: an image generator and a label branch, fitted to one gradient."""

    name: str = "grnn"
    citation: Citation = CITATIONS["ren2022grnn"]
    also: tuple[Citation, ...] = works(*(key for part in (square, total_variation, adam) for key in SOURCES[part]))
    requires: frozenset[Knowledge] = NEEDS

    def applies(self, observation: Observation) -> str | None:
        """Refuses large updates and inputs."""
        if observation.samples > MAX_SAMPLES:
            return f"{observation.samples} samples: gradient matching is tried up to {MAX_SAMPLES}"
        steps = 1 if observation.encoding.kind == "direct" else observation.encoding.steps
        outputs = observation.samples * steps * int(np.prod(observation.shape))
        if outputs > MAX_OUTPUTS:
            return f"{outputs} unknown inputs: the generator is made for {MAX_OUTPUTS} at most"
        return None

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Fits within the budget."""
        simulator = Simulator(observation, dtype=torch.float32)
        if not any(bool(t.any()) for t in simulator.target):
            return Finding(verdict="failed", reason="the observed gradient is zero: nothing to match")
        generator = Generator(
            latent=torch.as_tensor(rng.standard_normal((observation.samples, LATENT)), dtype=torch.float32),
            steps=simulator.steps,
            shape=simulator.shape,
            classes=observation.classes,
        )

        def loss(weights: Tensor) -> Tensor:
            frames, labels = generator(weights[0])
            found = simulator.gradients(frames, labels, create_graph=True)
            distance = relative_square(found, simulator.target) + TRANSPORT * wasserstein(found, simulator.target)
            return distance + SMOOTHNESS * total_variation(frames[None])

        descent, trouble = Descent(loss, deadline=now_s() + budget_s, enough=1e-12), ""
        try:
            adam(descent, generator.start(rng)[None], ITERATIONS)
        except OutOfTimeError:
            pass
        except DivergedError as error:
            trouble = f"; {error}"
        if descent.best is None:
            return Finding(verdict="failed", reason=f"the first objective is not finite{trouble}")
        return _finding(*generator(descent.best), simulator, descent, trouble)


def _finding(frames: Tensor, labels: Tensor, simulator: Simulator, descent: Descent, trouble: str) -> Finding:
    with counted():
        found = simulator.gradients(frames, labels)
    residual = float(relative_square(found, simulator.target).detach()) ** 0.5
    return Finding(
        verdict="recovered" if residual < RECOVERED else "partial",
        reason=f"gradient residual {residual:.1e} (recovered below {RECOVERED:.0e}), {descent.evaluations} "
        f"evaluations{trouble}",
        images=simulator.images(frames.detach()).numpy().astype(np.float32),
        labels=tuple(int(c) for c in labels.argmax(dim=1)),
        objective=descent.best_loss,
    )

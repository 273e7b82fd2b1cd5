r"""Every image of a direct-coded batch, bit for bit, by linear programming.

With direct coding the first fully connected layer's gradient is ``dW = Σ_b δ_b x_bᵀ`` for any neuron, surrogate and
depth above it, so its row space is the span of the images while their number is below the layer's width; a known bias
gradient ``db = Σ_b δ_b`` appends an entry that is 1 in every image. An image with an empty background is an extreme
ray of the cone

    { v in rowspace(dW) : v ≥ 0 }

with far more zeros than the ``rank - 1`` of a generic one. So: pin a pixel that few images cover, minimise a random
cost that varies smoothly over the picture (an LP of one row per image, warm-started in HiGHS), sharpen by reweighting
the l1 norm (Candès, Wakin and Boyd 2008), take the null vector of the zeros, and *snap* it to the intensity grid k/255.
Mixtures are off the grid: the chance that one fits is the certificate, in bits. With known weights each image's adjoint
is computed for every label and ``δ xᵀ`` subtracted; the rank drops by one for the right label alone, and the search
goes on in a smaller space.

An update through a quantising codec has nothing on the grid. There a ray counts as an image when its simulated adjoint
lies in the observed column space (right labels leave 5 % of it outside, wrong ones 60 %), and images and simulated
adjoints are then refined in turn, each entry weighted with its stochastic rounding's variance f (1 - f).

Local SGD only changes the δ: a weight difference after K steps has the same row space, and its rank is the number of
distinct images whatever K is. It is searched without subtracting.

The row space as a lever on batches is due to DAGER (Petrov et al. 2024, arXiv 2405.15586) and SPEAR (Dimitrov et al.
2024, arXiv 2403.03945); the cone, the grid certificate and the deflation are this project's own.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS, works
from attack.clock import now_s
from attack.images.adjoint import KnownNetwork
from attack.images.grid import snap
from attack.images.noisy import NoisySearch
from attack.images.row_space import row_space
from attack.images.search import GRID_TOLERANCE, Batch, ImageSearch
from attack.method import MAX_IMAGES, Citation, Finding
from attack.methods.ratio import fully_connected_first
from attack.simplex import CITED as SIMPLEX_CITED
from attack.threat import Array32, Array64, Knowledge, Observation

NOISY = 1e-4
"""First singular value beyond the rank, relative to the last within it, above which nothing sits on the grid."""
EXPLAINED = 0.6
"""Stochastic rounding errs by at most a step and by 0.5 step in root mean square; a missing image leaves more."""
_TO_SUBTRACT: frozenset[Knowledge] = frozenset({"architecture", "neuron", "encoding", "weights", "plan"})


def direct_batch(observation: Observation) -> str | None:
    """Why images cannot be told apart in the first layer's row space, or `None`."""
    if observation.encoding.kind != "direct":
        return f"the encoding is {observation.encoding.kind!r}: rows of the gradient are frames, not images"
    outputs = len(observation.first_layer.weight)
    if observation.samples >= outputs:
        return f"{observation.samples} samples fill a layer of {outputs} neurons: every input would be in its row space"
    return fully_connected_first(observation)


class ImageLp(msgspec.Struct, frozen=True, kw_only=True):
    """Extreme rays of the non-negative row space, snapped to the intensity grid."""

    name: str = "image_lp"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works("petrov2024dager", "dimitrov2024spear", "candes2008enhancing", *SIMPLEX_CITED)
    requires: frozenset[Knowledge] = frozenset({"encoding"})

    def applies(self, observation: Observation) -> str | None:
        """Needs direct coding and fewer samples than first-layer neurons."""
        return direct_batch(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Searches; `exact` when images on the intensity grid account for the whole rank of the gradient."""
        deadline = now_s() + budget_s
        layer = observation.first_layer
        if not layer.weight.any():
            return Finding(verdict="failed", reason="the first layer's gradient is zero: no neuron was reached")
        subtract = observation.known >= _TO_SUBTRACT and observation.plan.algorithm == "fedsgd"
        if subtract and layer.bias is not None and row_space(layer.weight, observation.samples).noise > NOISY:
            return _noisy(observation, layer.weight, layer.bias, deadline, rng)
        search = ImageSearch(
            layer.weight,
            layer.bias,
            observation.samples,
            gain=observation.encoding.gain,
            shape=observation.shape,
            adjoints=KnownNetwork(observation) if subtract else None,
            clipped=subtract and observation.plan.clip_norm is not None,
        )
        return _exact(search.run(deadline, rng), observation.shape)


def _exact(batch: Batch, shape: tuple[int, ...]) -> Finding:
    count = len(batch.images)
    if not count:
        return Finding(verdict="failed", reason=f"no vector of the {batch.rank}-dimensional row space fits the grid")
    images: Array32 = np.asarray(batch.images[:MAX_IMAGES], dtype=np.float32).reshape(-1, *shape)
    labels = tuple(label for label in batch.labels[:MAX_IMAGES] if label is not None)
    return Finding(
        verdict="exact" if batch.complete else "partial",
        reason=f"{count} of {batch.rank} images on the intensity grid, the least certain with {batch.bits:.0f} bits",
        images=images,
        labels=labels if len(labels) == len(images) else (),
    )


def _noisy(
    observation: Observation, weight: Array64, bias: Array64, deadline: float, rng: np.random.Generator
) -> Finding:
    name = f"{observation.first_layer.name}.weight"
    record = observation.records.get(name) if "codec" in observation.known else None
    search = NoisySearch(
        weight,
        bias,
        observation.samples,
        gain=observation.encoding.gain,
        shape=observation.shape,
        step=record.scale if record is not None and record.codec == "int8" else None,
        adjoints=KnownNetwork(observation),
    )
    batch = search.run(deadline, rng)
    if not len(batch.images):
        return Finding(verdict="failed", reason=f"no image among the rays of a {batch.rank}-dimensional row space")
    snapped = [snap(image, GRID_TOLERANCE, scaled=True) for image in batch.images]
    if len(snapped) == batch.rank and None not in snapped:
        certified = [pair for pair in snapped if pair is not None]
        whole = Batch(rank=batch.rank, labels=list(batch.labels), bits=min(bits for _, bits in certified))
        whole.images.extend(image for image, _ in certified)
        # Errors that a codec leaves are no chance: a pixel may sit on the grid one step off.
        return msgspec.structs.replace(_exact(whole, observation.shape), verdict="recovered")
    bound = observation.error_bound(name) if record is not None else 0.0
    explained = len(batch.images) == batch.rank and batch.residual <= EXPLAINED * bound
    return Finding(
        verdict="recovered" if explained else "partial",
        reason=f"{len(batch.images)} of {batch.rank} images by simulated adjoints; left unexplained "
        f"{batch.residual:.1e} an entry (root mean square), the codec's bound {bound:.1e}",
        images=batch.images[:MAX_IMAGES].astype(np.float32).reshape(-1, *observation.shape),
        labels=batch.labels[:MAX_IMAGES],
        objective=batch.residual,
    )

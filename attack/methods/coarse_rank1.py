r"""One direct-coded image from an update of which a coarse codec left a few large values, or the signs.

``dW = δ xᵀ`` is of rank one, so few of its entries decide all. The attacker knows the codec, and with it what the
entries that it does *not* see say:

- ``topk`` keeps entries above a magnitude τ: a dropped one obeys ``|δ_i x_j| ≤ τ``. Rank-one completion: entries seen
  are fitted, dropped ones are imputed with the current product, cut to ±τ (expectation maximisation, as in soft-impute:
  Mazumder, Hastie and Tibshirani 2010), and δ takes the bias gradient's scale where that was kept.
- ``sign`` counts 0 as positive: the column of a pixel that is 0 is positive throughout, any other repeats the signs
  of δ, so that the silhouette is exact; and the scales, mean magnitudes, give the mean intensity,
  ``mean|dW| / mean|db| = mean x``, which is spread over the silhouette.

The plain ratio takes dropped entries for zeros and the sign of a dark pixel for evidence. The derivation is this
project's own.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from attack.citations import CITATIONS, works
from attack.clock import spend
from attack.costs import calls
from attack.method import Citation, Finding
from attack.methods.ratio import fully_connected_first
from attack.threat import Array64, Knowledge, LayerGradient, Observation

ROUNDS = 200
CODECS = frozenset({"topk", "sign"})
UNSEEN = 0.5
"""Where between 0 and its bound a pixel is put of which no entry was kept."""
EMPTY = 0.75
"""Share of such pixels from which on they are taken for an empty background, and put at 0."""


class CoarseRankOne(msgspec.Struct, frozen=True, kw_only=True):
    """Rank-one completion under top-k, silhouette and mean intensity under sign."""

    name: str = "coarse_rank1"
    citation: Citation = CITATIONS["spikeleak"]
    also: tuple[Citation, ...] = works("mazumder2010spectral")
    requires: frozenset[Knowledge] = frozenset({"encoding", "codec"})

    def applies(self, observation: Observation) -> str | None:
        """Needs one direct-coded sample, a first layer with bias, and a codec of `CODECS`."""
        layer = observation.first_layer
        record = observation.records.get(f"{layer.name}.weight")
        if record is None or record.codec not in CODECS:
            return f"the update's codec is none of {', '.join(sorted(CODECS))}: other attacks use all that it left"
        if observation.encoding.kind != "direct" or observation.samples != 1:
            return "not one direct-coded sample: the gradient is not of rank one"
        if layer.bias is None:
            return "the first layer has no bias gradient"
        return fully_connected_first(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Completes; always `partial`, because the codec left too little to prove anything."""
        layer = observation.first_layer
        assert layer.bias is not None
        if not layer.weight.any() or not layer.bias.any():
            return Finding(verdict="failed", reason="the codec left nothing of the first layer's gradient")
        signs = observation.records[f"{layer.name}.weight"].codec == "sign"
        x, reason = silhouette(layer) if signs else completed(layer)
        image = np.clip(x / observation.encoding.gain, 0.0, 1.0).astype(np.float32).reshape(1, *observation.shape)
        return Finding(verdict="partial", reason=reason, images=image)


def silhouette(layer: LayerGradient) -> tuple[Array64, str]:
    """The input `[inputs]` as its silhouette times its mean intensity there, from signs."""
    assert layer.bias is not None
    positive = (layer.weight > 0).all(0)
    agree = np.mean(np.sign(layer.weight) == np.sign(layer.bias)[:, None], axis=0)
    bright: npt.NDArray[np.bool_] = ~positive & (agree > 0.5)
    mean = float(np.abs(layer.weight).mean() / np.abs(layer.bias).mean())
    x = bright * mean / max(bright.mean(), 1 / bright.size)
    return np.asarray(x, dtype=np.float64), f"{int(bright.sum())} of {bright.size} pixels repeat the signs of the bias"


def completed(layer: LayerGradient) -> tuple[Array64, str]:
    """The input `[inputs]` by rank-one completion of the entries that were kept."""
    assert layer.bias is not None
    seen = layer.weight != 0
    largest = np.abs(layer.weight).max()
    weight = layer.weight / largest
    bound = float(np.abs(weight[seen]).min())
    x = np.abs(weight).max(0)
    delta = np.where(np.abs(weight).max(1) > 0, np.sign(weight.sum(1)) * np.abs(weight).max(1), 0.0)
    for _ in range(ROUNDS):
        filled = np.where(seen, weight, np.clip(np.outer(delta, x), -bound, bound))
        spend(calls(15, 4 * filled.size))
        delta = filled @ x / (x @ x)
        last, x = x, np.clip(filled.T @ delta / (delta @ delta), 0.0, None)
        if np.abs(x - last).max() < 1e-6 * x.max():
            break
    kept = layer.bias != 0
    scale = float((layer.bias[kept] @ delta[kept]) / max(delta[kept] @ delta[kept], np.finfo(np.float64).tiny))
    unseen = ~seen.any(0)
    level = UNSEEN if unseen.mean() < EMPTY else 0.0
    x = np.where(unseen, level * bound / np.abs(delta).max(), x)
    reason = f"{seen.mean():.1%} of the entries were kept, of {int(unseen.sum())} pixels none"
    if scale <= 0:
        return np.asarray(x / x.max(), dtype=np.float64), reason + "; the bias gives no scale: the largest pixel is 1"
    return np.asarray(x * largest / scale, dtype=np.float64), reason

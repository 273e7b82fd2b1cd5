"""All attacks, in ladder order: cheapest first."""

from __future__ import annotations

from attack.method import Method
from attack.methods.coarse_rank1 import CoarseRankOne
from attack.methods.conv_codebook import ConvCodebook
from attack.methods.cosine import CosineMatching
from attack.methods.dlg import DeepLeakage
from attack.methods.dlg_faint import FaintDeepLeakage
from attack.methods.footprint import Footprint
from attack.methods.frame_lp import FrameLP
from attack.methods.grnn import GenerativeRegression
from attack.methods.image_lp import ImageLp
from attack.methods.label import LabelRecovery
from attack.methods.latency import Latency
from attack.methods.layer_inversion import LayerInversion
from attack.methods.matching_variants import MATCHING_VARIANTS
from attack.methods.quantized_alternation import QuantizedAlternation
from attack.methods.rank1 import RankOne
from attack.methods.ratio import Ratio
from attack.methods.readout_subset_sum import ReadoutSubsetSum
from attack.methods.row_space_enumeration import RowSpaceEnumeration
from attack.methods.row_space_membership import RowSpaceMembership
from attack.methods.span_consistency import SpanConsistency

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        LabelRecovery(),
        Footprint(),
        Ratio(),
        RankOne(),
        CoarseRankOne(),
        ReadoutSubsetSum(),
        RowSpaceMembership(),
        Latency(),
        RowSpaceEnumeration(),
        ConvCodebook(),
        LayerInversion(),
        QuantizedAlternation(),
        ImageLp(),
        SpanConsistency(),
        FrameLP(),
        DeepLeakage(),
        FaintDeepLeakage(),
        CosineMatching(),
        GenerativeRegression(),
    )
}

VARIANTS: dict[str, Method] = {method.name: method for method in MATCHING_VARIANTS}
"""Attacks that run only when settings name them: dearer, or no better, than what the ladder has."""

KNOWN: dict[str, Method] = METHODS | VARIANTS
"""All that settings may name."""

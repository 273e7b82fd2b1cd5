"""The works behind the parts of gradient matching, as keys of `attack.citations`, by the part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attack.optimisation import objectives, optimisers, priors, relaxations, starts
from attack.optimisation.gauss_newton import gauss_newton
from attack.optimisation.lbfgs import lbfgs

SOURCES: dict[Callable[..., Any], tuple[str, ...]] = {
    objectives.square: ("zhu2019dlg",),
    objectives.cosine: ("geiping2020inverting",),
    priors.none: (),
    priors.total_variation: ("rudin1992nonlinear",),
    priors.common_rate: ("rudin1992nonlinear",),
    priors.smooth_in_time: (),
    starts.normal: ("zhu2019dlg",),
    starts.uniform: (),
    starts.faint: (),
    relaxations.continuous: (),
    relaxations.straight_through: ("bengio2013estimating",),
    lbfgs: ("liu1989limited", "byrd1994representations"),
    optimisers.signed_adam: ("geiping2020inverting", "kingma2015adam"),
    optimisers.adam: ("kingma2015adam",),
    gauss_newton: ("levenberg1944method", "marquardt1963algorithm", "nocedal2006numerical"),
}
"""What a part's docstring names as its source; nothing where it names none."""

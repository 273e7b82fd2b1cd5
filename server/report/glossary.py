"""What the words beside the figures mean."""

from __future__ import annotations

GLOSSARY: dict[str, str] = {
    "measured": "Read from a meter while the work was done; source and scope name the meter and what it covers.",
    "modelled": (
        "Counted operations or bytes times the published constants of the table under “Energy constants”. "
        "It says what the work would cost by those constants, not what this machine drew."
    ),
    "emulated": "Read from a recording or from an emulated board; no such device was there.",
    "unavailable": "There is no figure, and the reason stands beside it. It is not zero and enters no sum.",
    "counted": "Counted by the server from its ledger: bytes, updates.",
    "evaluated": "Computed by the server on held-out samples that no device trained on.",
    "scored": (
        "Computed by the device that owns the truth, from the attacker's reconstruction. "
        "The attacker reads neither truth nor score."
    ),
    "local privacy ε": (
        "(ε, δ) of the Gaussian mechanism over all updates of a device that came here, of the update objects alone: "
        "any update of a round exchanged for any other changes the odds of what was sent by at most e^ε, but for δ. "
        "Energy reports, scores and truths are not covered."
    ),
    "PSNR": (
        "Peak signal-to-noise ratio for values in [0, 1], in decibels: 10·log₁₀(1 / mean squared error), "
        "capped at 200. 20 dB is an average error of a tenth of the range, 40 dB of a hundredth; "
        "above 100 dB only rounding is left."
    ),
    "identified": "The reconstruction has no nearer neighbour among the device's samples than the true one.",
    "spike frame": (
        "What the network saw at one step. A frame is found when every one of its spikes is, and placed when it is "
        "found at its own step of its own sample. Frames without a spike are left out: nothing tells them."
    ),
    "exact": "The attacker certified the reconstruction without the truth: it reproduces the update itself.",
    "recovered": "The attack met its own criterion, without such a certificate.",
    "partial": "The attack gave an estimate and no more.",
    "failed": "The attack ended without a usable result, or crashed. It counts as a trial.",
    "refused": "The threat model withholds what the attack needs, or it does not apply. It is not a trial.",
    "worst case": "The highest PSNR over all attacks and updates. An attacker needs one success; a median hides it.",
    "audit round": (
        "A round in which the server asks for the gradient of a single sample (FedSGD, batch size 1), "
        "as a curious server may. Its updates do not change the model."
    ),
    "95 % interval": (
        "Percentile bootstrap of the median over trials (2,000 resamples, fixed seed). "
        "A trial without an image ranks below every image; none is left out."
    ),
}

"""Rules about what the modules compute with, as read from both engines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parity_check.config.models import ROLES
from parity_check.diagnosis.case import Case, Match
from parity_check.diagnosis.path import KERNEL_RMS, SAME_BUILD_NOISE

BUILT = {
    "rope_scaling": ("the rotary embedding", ("rope_type", "rope_frequencies")),
    "norm_eps": ("the eps of the norms", ("norm_eps",)),
    "sliding_window": ("the sliding window", ("sliding_window",)),
    "soft_cap": ("soft-capping", ("attention_soft_cap", "logits_soft_cap")),
    "attention_scale": ("the scale of attention or of the logits",
                        ("attention_scale", "logits_scale")),
    "tied_head": ("the weight of the head", ("head",)),
    "quantised": ("quantised weights", ("quantised",)),
    "vocabulary": ("the size of the vocabulary", ("vocabulary",)),
}  # fmt: skip
"""By cause: what differs, in words, and the facts of the modules that show it."""


def built_with(facts: tuple[str, ...]) -> Callable[[Case], Match | None]:
    """The rule for these facts: one differs, and so do the logprobs, by more than kernels explain.

    Equal facts rule the cause out. Facts that an engine does not report decide nothing.
    """

    def look(case: Case) -> Match | None:
        left, right = (case.engines[role].model.get("modules") or {} for role in ROLES)
        differing = [f for f in facts if f in left and f in right and left[f] != right[f]]
        delta = case.evidence.delta[np.isfinite(case.evidence.delta)]
        if not differing or not len(delta):
            return None
        floor = max(case.engines[role].floor or 0.0 for role in ROLES)
        rms = float(np.sqrt((delta**2).mean()))
        same = case.engines["reference"].version == case.engines["candidate"].version
        if case.evidence.size() < SAME_BUILD_NOISE + 5.0 * floor or not (same or rms > KERNEL_RMS):
            return None
        values = "; ".join(
            f"{fact.replace('_', ' ')} {left[fact]} in the reference, {right[fact]} in the "
            "candidate"
            for fact in differing
        )
        return Match(
            None,
            "high",
            (f"read from the modules of both engines: {values}",),
            share=1.0,
            words={"values": values},
            settles=True,
        )

    return look

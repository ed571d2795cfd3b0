"""The RULES table: which pattern names which cause, and what to do about it.

Rules are looked at in this order, and each sees what the causes found before it have left.
"""

from __future__ import annotations

from parity_check.diagnosis import semantic
from parity_check.diagnosis.case import Rule

RULES = (
    Rule(
        cause="raw_logprobs",
        layer="semantic",
        look=semantic.raw_logprobs,
        pattern="the slope of candidate top-k gaps over reference top-k gaps is T, or 1/T",
        claim="The {engine} returns raw logprobs (T = 1) while it samples at temperature "
        "{temperature}: the implied temperature is {implied}.",
        fix='[{role}.settings] logprobs_mode = "processed_logprobs"',
        confirm="parity-check ablate {run} --only logprobs_mode",
        cases="trl#4159, vime#64, NeMo-RL#902",
    ),
)

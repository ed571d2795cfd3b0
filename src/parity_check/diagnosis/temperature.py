"""Detect a temperature on one side from the sampled tokens alone, for dumps without alternatives.

With alternatives, the scale of their gaps is exact (gaps.py). Without them, two signals remain. The
log-odds of a token shrink with the temperature, by less than 1/T if many tokens share the remaining
mass. And tokens are likelier, on average, under the distribution they were sampled from than under
any other (Gibbs' inequality), which shows which side is raw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis.case import Case, Match
from parity_check.diagnosis.evidence import Evidence, Floats
from parity_check.measure.stats import t_quantile
from parity_check.traces.trace import UNKNOWN

CERTAIN = -1e-4
"""Nats. For likelier tokens, log-odds are rounding noise."""
FEWEST_TOKENS = 200
FEWEST_PROMPTS = 8
RELATED = 0.9
"""Smallest correlation of the log-odds if one side is a rescaled copy of the other."""
CHANGED = 0.05
"""Slopes closer to 1 are staleness, penalties or noise."""
CHANGED_UNSTATED = 0.12
"""The same if the sampling temperature is not stated."""
SHARE_OF_SCALE = (0.35, 1.3)
"""How far the slope moves from 1 towards T or 1/T: 0.43 to 1.07 on real engines, T 0.6 to 1.3."""
CLEAR = 3.0
"""A mean this many standard errors from 0 is not 0."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Slope of the candidate's log-odds over the reference's, symmetric in both.

    `low` and `high` are its 95 % interval by prompt.
    """

    slope: float
    low: float
    high: float
    correlation: float
    tokens: int


def scale(evidence: Evidence) -> Scale | None:
    """The change of scale of the sampled tokens' log-odds; None for too few tokens."""
    sides = [side[:, 0] for side in (evidence.reference, evidence.candidate)]
    with np.errstate(invalid="ignore"):
        usable = (sides[0] < CERTAIN) & (sides[1] < CERTAIN)
    left, right = (_log_odds(side[usable]) for side in sides)
    owner = evidence.prompt[evidence.sample][usable]
    prompts = np.unique(owner)
    if len(left) < FEWEST_TOKENS or len(prompts) < FEWEST_PROMPTS:
        return None
    if left.std() == 0.0 or right.std() == 0.0:
        return None
    slope = float(right.std() / left.std())
    folds = [owner % FEWEST_PROMPTS == number for number in range(FEWEST_PROMPTS)]
    rest = [~fold for fold in folds if left[~fold].std() > 0.0]
    if len(rest) < 2:
        return None
    without = [right[each].std() / left[each].std() for each in rest]
    # Delete-one-fold jackknife.
    count = len(without)
    error = np.sqrt((count - 1) / count * np.sum((np.array(without) - np.mean(without)) ** 2))
    margin = t_quantile(count, 0.95) * float(error)
    correlation = float(np.corrcoef(left, right)[0, 1])
    return Scale(slope, slope - margin, slope + margin, correlation, len(left))


def _log_odds(logprobs: Floats) -> Floats:
    odds: Floats = logprobs - np.log(-np.expm1(logprobs))
    return odds


def gain(evidence: Evidence, raw: Role) -> tuple[float, float]:
    """How much likelier the tokens are under the other side than under `raw`: mean nats and error.

    Positive if the tokens were sampled from the other side's distribution.
    """
    delta = evidence.delta if raw == "reference" else -evidence.delta
    usable = np.isfinite(delta)
    owner = evidence.prompt[evidence.sample][usable]
    _, owner = np.unique(owner, return_inverse=True)
    sums, counts = np.bincount(owner, weights=delta[usable]), np.bincount(owner)
    mean = float(sums.sum() / counts.sum())
    clusters = len(counts)
    spread = np.sum((sums - mean * counts) ** 2) * clusters / max(1, clusters - 1)
    return mean, float(np.sqrt(spread) / counts.sum())


def raw_in_dump(case: Case) -> Match | None:
    """Log-odds on a different scale; towards T or 1/T if T is known."""
    found = _changed(case)
    if found is None:
        return None
    evidence = (_sentence(found),)
    if not case.temperature_stated:
        return _unstated(evidence)
    role = _colder(case, found)
    if role is None:
        return None
    mean, error = gain(case.evidence, role)
    if mean < CLEAR * error:
        return None
    sampled = bool(case.evidence.sampled_by_candidate.any()) == (role == "candidate")
    temperature = case.temperature()
    return Match(
        role,
        "medium",
        (
            *evidence,
            f"this is as expected for a temperature of {temperature:g} applied only by the "
            f"{OTHER[role]}",
            f"the tokens are likelier under the {OTHER[role]} than under the {role}, by "
            f"{mean:.4f} ± {error:.4f} nats: they were sampled from what the {OTHER[role]} reports",
        ),
        words={
            "whose": f"The {role}'s logprobs are raw (T = 1), but the tokens were sampled at "
            f"temperature {temperature:g}",
            "remedy": 'start the rollout engine with logprobs_mode = "processed_logprobs"'
            if sampled
            else f"divide the trainer's logits by {temperature:g} before its softmax",
        },
        share=1.0,
        settles=True,
    )


def twice_in_dump(case: Case) -> Match | None:
    """The same scale, but the tokens were sampled from the side that would be raw."""
    found = _changed(case)
    role = _colder(case, found) if found is not None and case.temperature_stated else None
    if found is None or role is None:
        return None
    mean, error = gain(case.evidence, role)
    if mean > -CLEAR * error:
        return None
    temperature = case.temperature()
    return Match(
        OTHER[role],
        "medium",
        (
            _sentence(found),
            f"the tokens are likelier under the {role} than under the {OTHER[role]}, by "
            f"{-mean:.4f} ± {error:.4f} nats: they were sampled from what the {role} reports, so "
            "it is not raw",
        ),
        share=1.0,
        words={"temperature": f"{temperature:g}", "squared": f"{temperature**2:.3g}"},
        settles=True,
    )


def _changed(case: Case) -> Scale | None:
    """The change of scale between two sides of a dump without alternatives."""
    unknown = all(case.engines[role].distribution == UNKNOWN for role in ROLES)
    if not unknown or case.evidence.has_alternatives:
        return None
    found = scale(case.evidence)
    if found is None or found.correlation < RELATED or found.low <= 1.0 <= found.high:
        return None
    least = CHANGED if case.temperature_stated else CHANGED_UNSTATED
    return found if abs(found.slope - 1.0) >= least else None


def _sentence(found: Scale) -> str:
    return (
        f"log-odds of the candidate are {found.slope:.3f} times those of the reference "
        f"[{found.low:.3f}, {found.high:.3f}], correlation {found.correlation:.3f}, "
        f"n = {found.tokens:,} tokens"
    )


def _colder(case: Case, found: Scale) -> Role | None:
    """The side that is raw, if the scale comes from the temperature on the other side alone."""
    temperature = case.temperature()
    if temperature == 1.0:
        return None
    # If the reference is raw (T = 1), the candidate's log-odds are up to 1/T times as large.
    expected: dict[Role, float] = {"reference": 1.0 / temperature, "candidate": temperature}
    shares = {role: (found.slope - 1.0) / (each - 1.0) for role, each in expected.items()}
    raw = [r for r in ROLES if SHARE_OF_SCALE[0] <= shares[r] <= SHARE_OF_SCALE[1]]
    return raw[0] if len(raw) == 1 else None


def _unstated(evidence: tuple[str, ...]) -> Match:
    """The two sides have different temperatures, and the sampling temperature is not stated."""
    return Match(
        None,
        "low",
        (*evidence, "the trace does not state the sampling temperature"),
        words={
            "whose": "The two sides' logprobs are at different temperatures",
            "remedy": "import again with --sampling temperature=… to find out which side is raw",
        },
        settles=True,
    )

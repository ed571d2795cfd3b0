"""What a reader must know to read the curves right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.config.models import Config
from parity_check.training import arms
from parity_check.training.curves import Step

RAW = ("raw_logprobs", "default")


def notices(config: Config, steps: Sequence[Step]) -> Iterator[str]:
    """In sentences."""
    if config.workload.temperature == 1.0:
        raw = [
            name
            for name, arm in arms.arms(config).items()
            if arm.settings.get("logprobs_mode") in RAW
        ]
        if raw:
            yield (
                f"at temperature 1 raw logprobs equal processed ones, so logprobs_mode makes no "
                f"difference here: {', '.join(raw)}"
            )
    flat = sum(step.grad_norm == 0.0 for step in steps)
    if flat:
        yield (
            f"{flat} of {len(steps)} steps had no gradient: all samples of each prompt had the "
            "same reward"
        )

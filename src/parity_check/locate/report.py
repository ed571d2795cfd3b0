"""The frozen LocateReport: everything that its document and its record need."""

from __future__ import annotations

from dataclasses import dataclass

from parity_check.comparison.report import EXIT_CODES, EngineReport
from parity_check.errors import ExitCode
from parity_check.locate.differences import (
    SAME_PROCESSING,
    Difference,
    Processing,
    first_beyond_noise,
)
from parity_check.measure.gates import Verdict
from parity_check.report.document import Head


@dataclass(frozen=True, slots=True)
class LocateReport:
    """Where two engines part; the reference comes first in every pair."""

    head: Head
    engines: tuple[EngineReport, EngineReport]
    passes: int
    """Forward passes that both engines made: a prompt's last token, then one a token."""
    differences: tuple[Difference, ...]
    unmatched: tuple[str, ...]
    """Modules that only one engine has, or has in another shape."""
    processing: tuple[Processing | None, Processing | None]

    @property
    def first(self) -> Difference | None:
        """The first module that differs beyond noise."""
        return first_beyond_noise(self.differences)

    @property
    def processing_differs(self) -> bool | None:
        """Whether only one engine's logprobs are the log-softmax of its logits; None if unknown.

        Truncation and penalties move the logprobs of both engines off it.
        """
        one, other = self.processing
        if one is None or other is None:
            return None
        if one.off is None or other.off is None:
            return one.off != other.off
        return abs(one.off - other.off) > SAME_PROCESSING

    @property
    def verdict(self) -> Verdict:
        if self.first is not None or self.processing_differs:
            return "drift"
        return "inconclusive" if self.processing_differs is None else "parity"

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]

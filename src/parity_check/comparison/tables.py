"""A finished run as pandas tables, for notebooks: one row per token or per sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parity_check.config.models import ROLES
from parity_check.errors import InputError, TraceMismatchError
from parity_check.measure.metrics import RATIO_CAP
from parity_check.reading import parse_json, read_text
from parity_check.traces.batch import SampleBatch
from parity_check.traces.pairing import check_headers, check_same_tokens
from parity_check.traces.run_files import evaluated_name, evaluators, sampled_name
from parity_check.traces.trace import Trace

NAMES = ("sampled_by", "evaluated_by", "prompt_id", "prompt_group", "sample_id")
RECORDED = ("sample_index", "finish_reason", "text")


class Run:
    """A run directory. Tables are read on each call and not cached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._evaluated: dict[str, list[str]] = {
            role: found for role in ROLES if (found := evaluators(path, role))
        }
        self.samplers = tuple(self._evaluated)
        if not self.samplers:
            raise InputError(f"{path}: no traces here", hint="pass a run directory")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, sampled by {' and '.join(self.samplers)})"

    @property
    def report(self) -> dict[str, Any]:
        """report.json, parsed. Raises InputError if it cannot be read."""
        path = self.path / "report.json"
        tree = parse_json(read_text(path, "the report"), str(path))
        if not isinstance(tree, dict):
            raise InputError(f"{path}: not a report")
        return tree

    def tokens(self) -> pd.DataFrame:
        """One row per token; all sampling directions in one table.

        Columns: sampled_by, evaluated_by, prompt_id, prompt_group, sample_id, position (from 0, in
        the completion), token_id, token (its text), behaviour_logprob, evaluating_logprob and
        log_ratio (nats), importance_ratio (Δ cut at ±20). Logprobs are as the engine returned them,
        NaN if missing. The report excludes unusable ones from its means.
        """
        return _table(
            _tokens(engines, left, right, vocabulary)
            for engines, behaviour, evaluating in self._pairs()
            for vocabulary in [behaviour.vocabulary()]
            for left, right in _batches(behaviour, evaluating)
        )

    def samples(self) -> pd.DataFrame:
        """One row per sample; all sampling directions in one table.

        Columns: sampled_by, evaluated_by, prompt_id, prompt_group, sample_id, sample_index, tokens,
        sum_log_ratio and mean_log_ratio (nats), their exponentials sequence_ratio and
        geometric_mean_ratio (GSPO's), finish_reason, text. A sample with an unusable logprob has
        NaN ratios.
        """
        return _table(
            pd.concat([_samples(engines, left, right) for left, right in _batches(*pair)])
            .reset_index(drop=True)
            .join(pd.read_parquet(pair[0].path, columns=list(RECORDED)))
            for engines, *pair in self._pairs()
        )

    def _pairs(self) -> Iterator[tuple[tuple[str, str], Trace, Trace]]:
        for sampler, names in self._evaluated.items():
            for evaluator in names:
                behaviour = Trace(self.path / sampled_name(sampler))
                evaluating = Trace(self.path / evaluated_name(sampler, evaluator))
                check_headers(behaviour.header, evaluating.header, same_distribution=False)
                yield (sampler, evaluator), behaviour, evaluating


def load_run(path: str | Path) -> Run:
    """Open a run directory. Raises InputError if it has no pair of traces."""
    return Run(Path(path))


def _table(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    # Categories save memory: names repeat for millions of tokens.
    return table.astype(dict.fromkeys(NAMES, "category"))


def _batches(behaviour: Trace, evaluating: Trace) -> Iterator[tuple[SampleBatch, SampleBatch]]:
    for left, right in zip_longest(behaviour.batches(), evaluating.batches(like=behaviour)):
        if left is None or right is None:
            raise TraceMismatchError("one trace has more samples than the other")
        check_same_tokens(left, right)
        yield left, right


def _owners(batch: SampleBatch) -> NDArray[np.int64]:
    """The sample of each token."""
    lengths = np.diff(batch.starts)
    return np.repeat(np.arange(len(lengths)), lengths)


def _names(engines: tuple[str, str], batch: SampleBatch) -> dict[str, Any]:
    return {
        "sampled_by": engines[0],
        "evaluated_by": engines[1],
        "prompt_id": np.asarray(batch.prompt_ids, object),
        "prompt_group": np.asarray(batch.prompt_groups, object),
        "sample_id": np.asarray(batch.sample_ids, object),
    }


def _tokens(
    engines: tuple[str, str], left: SampleBatch, right: SampleBatch, vocabulary: dict[int, str]
) -> pd.DataFrame:
    owner = _owners(left)
    log_ratio = right.logprobs.astype(np.float64) - left.logprobs
    names = _names(engines, left).items()
    return pd.DataFrame(
        {
            **{name: value if isinstance(value, str) else value[owner] for name, value in names},
            "position": np.arange(len(owner)) - left.starts[:-1][owner],
            "token_id": left.token_ids,
            "token": pd.Series(left.token_ids).map(vocabulary),
            "behaviour_logprob": left.logprobs,
            "evaluating_logprob": right.logprobs,
            "log_ratio": log_ratio,
            "importance_ratio": _ratio(log_ratio),
        }
    )


def _samples(engines: tuple[str, str], left: SampleBatch, right: SampleBatch) -> pd.DataFrame:
    owner, lengths = _owners(left), np.diff(left.starts)
    log_ratio = right.logprobs.astype(np.float64) - left.logprobs
    total = np.bincount(owner, weights=log_ratio, minlength=len(lengths))
    mean = total / np.where(lengths, lengths, np.nan)
    return pd.DataFrame(
        {
            **_names(engines, left),
            "tokens": lengths,
            "sum_log_ratio": total,
            "mean_log_ratio": mean,
            "sequence_ratio": _ratio(total),
            "geometric_mean_ratio": _ratio(mean),
        }
    )


def _ratio(log_ratio: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.exp(np.clip(log_ratio, -RATIO_CAP, RATIO_CAP))
    return ratio

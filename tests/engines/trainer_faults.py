"""Probe a trainer with an error in one weight after the other: trainer_faults.py WORKER QUESTION
ANSWER.

QUESTION: {"load": …, "requests", "sampling", "directory"}
ANSWER:   {"probes": [{"tensor", "path", "dtypes", "logprobs"}]}; the first without
          an error, its tensor is null
"""

import json
import sys
from pathlib import Path

import torch

MATRIX_ERROR, NORM_ERROR = 0.25, 0.2
"""Standard deviation of the error over that of a matrix, and over the mean of a norm."""


class Output:
    """The rows of one probe."""

    def __init__(self, path):
        self.path, self.logprobs = path, []

    def write(self, **row):
        self.logprobs.append(row["logprobs"])

    def beside(self, name):
        return self.path


def error_of(weight, gemma):
    draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    if weight.dim() > 1:
        return draw * MATRIX_ERROR * weight.float().std()
    return draw * NORM_ERROR * (weight.float() + (1.0 if gemma else 0.0)).abs().mean()


def main():
    _, worker, question, answer = sys.argv
    sys.path.insert(0, worker)
    from transformers_engine import TransformersEngine

    asked = json.loads(Path(question).read_text())
    engine = TransformersEngine(asked["load"])
    weights = dict(engine.model.named_parameters())
    if not engine.model.config.tie_word_embeddings:
        weights["lm_head.weight"] = engine.head.weight
    gemma = "Gemma" in type(engine.model).__name__  # adds 1 to the weights of its norms
    found = []
    for number, tensor in enumerate([None, *weights]):
        output = Output(Path(asked["directory"]) / f"{number}.npz")
        command = {"noise": False, "sampling": asked["sampling"], "modules": ""}
        before = None if tensor is None else weights[tensor].detach().clone()
        with torch.no_grad():
            if tensor is not None:
                weights[tensor].add_(error_of(before, gemma).to(before.dtype))
            result = engine.probe(asked["requests"], command, output)
            if tensor is not None:
                weights[tensor].copy_(before)
        found.append(
            {"tensor": tensor, "path": str(output.path), "logprobs": output.logprobs, **result}
        )
    Path(answer).write_text(json.dumps({"probes": found}))


main()

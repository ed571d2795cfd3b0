"""The float32 head in parts and whole, of one weight: head.py WORKER QUESTION ANSWER."""

import json
import sys
from pathlib import Path

import parity_check_extension as extension
import torch


def main():
    _, _, _, answer = sys.argv
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 64, generator=source).to(torch.bfloat16)
    weight = torch.randn(1000, 64, generator=source).to(torch.bfloat16)
    exact = (hidden.double() @ weight.double().t()).float()
    errors = {}
    for rows in (1000, 999, 128, 1, 0):  # a budget below one row still takes one
        extension.HEAD_BUDGET = 4 * 64 * rows
        found = extension._fp32_projection(hidden, weight)
        assert found.dtype == torch.float32
        assert found.shape == exact.shape
        errors[rows] = float((found - exact).abs().max())
    Path(answer).write_text(json.dumps({"errors": errors}))


main()

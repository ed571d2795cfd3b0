"""Score completions with a transformers forward: forward.py WORKER QUESTION ANSWER.

QUESTION: {"load": …, "samples": [{"prompt": ids, "completion": ids}], "temperature", "top_p",
           "body"?: "bfloat16"}; the body is float32 by default, the lm_head always is
ANSWER:   {"raw": [[…]], "processed": [[…]]}, natural logs; null for a token outside the support.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def processed(logits, temperature, top_p):
    logits = logits / temperature
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < top_p)
    return logits.masked_fill(~keep, -torch.inf).log_softmax(-1)


def rows(logprobs, completion):
    chosen = logprobs[torch.arange(len(completion)), torch.tensor(completion)]
    return [value if value > -1e30 else None for value in chosen.tolist()]


def main():
    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    model = AutoModelForCausalLM.from_pretrained(
        asked["load"]["engine_args"]["model"],
        torch_dtype=getattr(torch, asked.get("body", "float32")),
    ).eval()
    head = model.lm_head.weight.float()
    found = {"raw": [], "processed": []}
    with torch.inference_mode():
        for sample in asked["samples"]:
            prompt, completion = sample["prompt"], sample["completion"]
            hidden = model.model(torch.tensor([prompt + completion])).last_hidden_state
            logits = hidden[0, len(prompt) - 1 : -1].float() @ head.T
            found["raw"].append(rows(logits.log_softmax(-1), completion))
            found["processed"].append(
                rows(processed(logits, asked["temperature"], asked["top_p"]), completion)
            )
    Path(answer).write_text(json.dumps(found))


main()

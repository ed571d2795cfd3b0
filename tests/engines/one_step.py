"""One step of training in plain torch: one_step.py WORKER QUESTION ANSWER.

QUESTION: {"load": …, "samples": [{"prompt", "completion", "logprobs", "advantage"}],
           "cases": [{"loss", "old_logprobs", "low", "high", "weights"}], "cap", "temperature",
           "learning_rate", "betas", "weight_decay", "max_grad_norm"}
ANSWER:   {"steps": [{"loss", "grad_norm"}]}; the new weights of a case go to the file `weights`

One sample at a time, in float32, with each loss written out for a sample.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def logprobs_of(model, sample, temperature):
    prompt, completion = sample["prompt"], sample["completion"]
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    every = torch.log_softmax(logits / temperature, dim=-1)
    return torch.stack([row[token] for row, token in zip(every, completion)])  # noqa: B905 - as old as Python 3.9


def clipped(ratio, advantage, low, high):
    """The objective that is maximised: constant where the clip removes the gradient."""
    value = float(ratio.detach())
    if advantage > 0 and value > 1 + high:
        return torch.tensor((1 + high) * advantage)
    if advantage < 0 and value < 1 - low:
        return torch.tensor((1 - low) * advantage)
    return ratio * advantage


def objective(asked, sample, new, old):
    """Of one sample; for `ppo` the sum over its tokens, which all weigh alike."""
    behaviour = torch.tensor(sample["logprobs"])
    recompute = asked["old_logprobs"] == "recompute"
    weight = torch.exp(old - behaviour) if recompute else torch.ones_like(behaviour)
    if asked["loss"] == "gspo":
        ratio = torch.exp((new - old).sum() / len(new))
        if recompute:
            mean = float((old - behaviour).mean())
            weight = min(math.exp(mean), asked["cap"])
        else:
            weight = 1.0
        return weight * clipped(ratio, sample["advantage"], asked["low"], asked["high"])
    terms = [
        min(float(weight[t]), asked["cap"] if recompute else 1.0)
        * clipped(torch.exp(new[t] - old[t]), sample["advantage"], asked["low"], asked["high"])
        for t in range(len(new))
    ]
    return sum(terms) if asked["loss"] == "ppo" else sum(terms) / len(terms)


def step(asked):
    model = AutoModelForCausalLM.from_pretrained(
        asked["load"]["engine_args"]["model"], torch_dtype=torch.float32
    ).eval()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=asked["learning_rate"],
        betas=asked["betas"],
        weight_decay=asked["weight_decay"],
    )
    total = 0.0
    for sample in asked["samples"]:
        new = logprobs_of(model, sample, asked["temperature"])
        recompute = asked["old_logprobs"] == "recompute"
        old = new.detach() if recompute else torch.tensor(sample["logprobs"])
        total = total - objective(asked, sample, new, old)
    units = len(asked["samples"])
    if asked["loss"] == "ppo":
        units = sum(len(sample["completion"]) for sample in asked["samples"])
    loss = total / units
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), asked["max_grad_norm"])
    optimizer.step()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, asked["weights"])
    return {"loss": float(loss.detach()), "grad_norm": float(norm)}


def main():
    _, _, question, answer = sys.argv
    asked = json.loads(Path(question).read_text())
    steps = [step({**asked, **case}) for case in asked["cases"]]
    Path(answer).write_text(json.dumps({"steps": steps}))


main()

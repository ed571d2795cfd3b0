"""A trainer that learns: the forward pass of `transformers_engine`, with a loss and an optimiser.

`begin` starts a run from the checkpoint's weights. `learn` takes a step's samples, with the
advantage of each, through one or more optimiser steps; it returns the logprobs and entropies of the
forward passes that the gradients are of. `save` writes the weights for the rollout engine.

The optimiser is AdamW on float32 copies of the weights, which the model's own dtype is rounded
from after each step: updates of 1e-5 are below the resolution of bfloat16. Dropout is off.
"""

import contextlib
import importlib
import math
import signal
import sys

import batch_shape
import losses
from failures import WorkerFailure
from transformers_engine import TransformersEngine


class LiveHead:
    """The lm_head at selected positions, with the weights as they are, and their gradient."""

    def __init__(self, linear, upcast):
        self.linear, self.upcast = linear, upcast
        self.rows = self.columns = None

    def __call__(self, hidden):
        import torch

        chosen, weight, bias = hidden[self.rows, self.columns], self.linear.weight, self.linear.bias
        if self.upcast:
            chosen, weight = chosen.float(), weight.float()
            bias = None if bias is None else bias.float()
        return torch.nn.functional.linear(chosen, weight, bias)


class LearnerEngine(TransformersEngine):
    """Raises WorkerFailure if it cannot load as requested."""

    def __init__(self, command):
        super().__init__(command)
        linear = self.model.get_output_embeddings()
        self.head = linear.forward = LiveHead(linear, self.arguments.lm_head_dtype == "float32")
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.first = [parameter.detach().clone() for parameter in self.parameters]
        self.masters = self.optimizer = None

    def describe(self):
        return {**super().describe(), "backend": "learner"}

    def begin(self, command):
        """Go back to the checkpoint's weights, with a new optimiser."""
        torch = self.torch
        self.masters = [first.float().clone().requires_grad_() for first in self.first]
        self.round()
        self.optimizer = torch.optim.AdamW(
            self.masters,
            lr=command["learning_rate"],
            betas=tuple(command["betas"]),
            weight_decay=command["weight_decay"],
        )

    def round(self):
        """Set the model's weights from the float32 copies."""
        with self.torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters):
                parameter.copy_(master)

    def save(self, command):
        self.model.save_pretrained(command["directory"])

    # --- learning -------------------------------------------------------------------------------

    def learn(self, requests, command, output):
        self.check_tokens(requests, 0)
        if command["old_logprobs"] == "recompute":
            self.recompute(requests, command)
        else:
            for request in requests:
                request["old"], request["weights"] = request["logprobs"], None
        norms, total = [], 0.0
        for part in parts(requests, command["optimizer_steps"]):
            loss, norm = self.optimizer_step(part, command, output)
            total += loss * len(part) / len(requests)
            norms.append(norm)
        return {"loss": total, "grad_norm": sum(norms) / len(norms)}

    def recompute(self, requests, command):
        """Old logprobs by the trainer; the rollout's make weights of them, capped."""
        cap = math.log(command["weight_cap"])
        for batch in self.batches(requests):
            with self.torch.no_grad():
                logprobs, _ = self.scored(batch, command)
            for request, old in zip(batch, logprobs.split(lengths_of(batch))):
                request["old"] = old.tolist()
                gaps = [x - y for x, y in zip(request["old"], request["logprobs"])]
                if command["loss"] == "gspo":
                    gaps = [sum(gaps) / len(gaps)] * len(gaps)
                request["weights"] = [min(gap, cap) for gap in gaps]

    def optimizer_step(self, requests, command, output):
        """One step of AdamW on these samples; returns the loss, and the norm before clipping."""
        torch = self.torch
        self.model.zero_grad(set_to_none=True)
        units = sum(lengths_of(requests)) if command["loss"] == "ppo" else len(requests)
        total = 0.0
        for batch in self.batches(requests):
            logprobs, entropies = self.scored(batch, command)
            loss = self.loss(batch, logprobs, command) / units
            loss.backward()
            total += float(loss.detach())
            lengths = lengths_of(batch)
            for request, new, entropy in zip(
                batch, logprobs.detach().split(lengths), entropies.split(lengths)
            ):
                output.write(
                    sample_id=request["sample_id"], logprobs=new.tolist(), entropy=entropy.tolist()
                )
        for parameter, master in zip(self.parameters, self.masters):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, command["max_grad_norm"]))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise WorkerFailure(
                "not_finite", f"the loss is {total:g} and the norm of its gradient {norm:g}"
            )
        self.optimizer.step()
        self.round()
        return total, norm

    def loss(self, batch, logprobs, command):
        """The sum of the losses of a batch, with a gradient."""
        lengths = lengths_of(batch)
        owner = self.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
        flat = {
            name: self.tensor([value for each in batch for value in each[name]]).double()
            for name in ("old", "weights")
            if batch[0][name] is not None
        }
        return losses.loss_sum(
            command["loss"],
            logprobs.double(),
            flat["old"],
            owner,
            self.tensor(lengths),
            self.tensor([each["advantage"] for each in batch]).double(),
            command["epsilon_low"],
            command["epsilon_high"],
            flat.get("weights"),
        )

    def batches(self, requests):
        arguments = self.arguments
        return batch_shape.batches(
            requests, arguments.layout, arguments.samples_per_batch, arguments.tokens_per_batch
        )

    def scored(self, batch, command):
        """Logprobs [n] of the completions, with a gradient unless it is off, and entropies [n]."""
        torch = self.torch
        samples = [(each["prompt_token_ids"], each["completion_token_ids"]) for each in batch]
        tokens = self.tensor([token for _, completion in samples for token in completion])
        rows = self.logprobs(self.forward(samples, self.arguments.layout), command["sampling"])
        entropies = torch.special.entr(rows.detach().exp()).sum(-1)
        return rows.gather(1, tokens[:, None])[:, 0], entropies

    def inference(self):
        """The forward passes of a trainer that learns keep what their gradient needs."""
        return contextlib.nullcontext()

    # --- rewards --------------------------------------------------------------------------------

    def reward(self, requests, command, output):
        """The rewards of a user's function."""
        score = imported(command["function"], command["python_path"])
        for request in requests:
            value = self.one_reward(score, request, command)
            output.write(sample_id=request["sample_id"], reward=value)

    def one_reward(self, score, request, command):
        what = f"training.reward: {command['function']} on sample {request['sample_id']}"
        try:
            with limited(command["timeout_s"]):
                value = score(request["prompt"], request["completion"], request["answer"])
        except TimeoutError:
            raise WorkerFailure(
                "bad_reward", f"{what}: no answer within {command['timeout_s']:g} s"
            ) from None
        except Exception as error:
            raise WorkerFailure("bad_reward", f"{what}: {one_line(error)}") from error
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise WorkerFailure(
                "bad_reward", f"{what}: returned {str(value)[:40]!r} instead of a finite number"
            )
        return float(value)


def lengths_of(requests):
    return [len(request["completion_token_ids"]) for request in requests]


def parts(requests, count):
    """Split into at most `count` parts of nearly equal size, in order."""
    count = min(count, len(requests))
    edges = [len(requests) * number // count for number in range(count + 1)]
    return [requests[low:high] for low, high in zip(edges, edges[1:])]


def imported(function, directory):
    """The callable behind `module:function`; `directory` is searched last."""
    if directory not in sys.path:
        sys.path.append(directory)
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise WorkerFailure(
            "bad_reward", f"training.reward: cannot use {function}: {one_line(error)}"
        ) from error
    if not callable(found):
        raise WorkerFailure("bad_reward", f"training.reward: {function} is not callable")
    return found


@contextlib.contextmanager
def limited(seconds):
    """Raise TimeoutError in the block after so many seconds."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def one_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

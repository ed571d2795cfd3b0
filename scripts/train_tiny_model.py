# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "tokenizers==0.23.3",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""Train the bundled tiny language model and write the bundled prompts, from generated text.

    python scripts/train_tiny_model.py             # into src/parity_check/assets
    python scripts/train_tiny_model.py --out DIR   # DIR/tiny, DIR/tiny-next, DIR/prompts.jsonl, …

Half of the text is arithmetic questions with worked answers that end in ``#### 42``, so that a
reward can be checked. The rest is prose from a probabilistic grammar: stories, dialogue,
instructions, descriptions, lists, letters, news, timetables. The grammar's choices give the model
the entropy, rare tokens and punctuation of a real language model. Its ledgers repeat distant
entries, so that the model uses its whole context.

Everything is seeded, so the same machine reproduces the same files. Another CPU may round
differently; the sha256 of the shipped weights is in the assets' README.md.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_model.corpus import (
    ASSISTANT,
    BOS,
    EOS,
    PAD,
    SEED,
    USER,
    Writer,
    make_document,
    make_problem,
)
from tiny_model.prompts import (
    ARITHMETIC_PROMPTS,
    held_out_prompts,
    make_prompts,
    more_prompts,
    without_prompts,
)

ASSETS = Path(__file__).resolve().parent.parent / "src" / "parity_check" / "assets"

VOCAB_SIZE = 4096
SPECIAL_TOKENS = [BOS, EOS, USER, ASSISTANT, PAD]  # their ids are 0, 1, 2, 3, 4

TRAIN_DOCUMENTS = 40_000
HELD_OUT_DOCUMENTS = 300
SEQUENCE_LENGTH = 512
BATCH_SIZE = 4
STEPS = 2400
WARMUP_STEPS = 20
MUON_LR, ADAMW_LR = 3e-3, 4e-3
# The second checkpoint is the first one some steps on, as a policy is after an update or two.
NEXT_STEPS, NEXT_LR = 8, 4e-4
THREADS = 2

# ------------------------------------------------------------------------------------ the tokenizer


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """A byte-level BPE whose digits stay single tokens; encoding adds ``<|bos|>`` once."""
    split = Regex(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = re.compile("|".join(map(re.escape, (USER, ASSISTANT))))
    tokenizer.train_from_iterator((roles.sub("\n", text) for text in documents), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"the text yields only {tokenizer.get_vocab_size()} tokens")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


# The template writes <|bos|> itself: encode what it renders with add_special_tokens=False.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<|user|>' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('this model knows only the roles user and assistant') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, object]:
    decoder = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    return {
        "added_tokens_decoder": decoder,
        "additional_special_tokens": [USER, ASSISTANT],
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": 1024,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


# ------------------------------------------------------------------------------------ the model


def model_config(*, tied: bool) -> dict[str, object]:
    """config.json in the form of transformers 4.51, which every later version reads correctly.

    The reverse does not hold: 4.x takes the defaults for 5.x's ``dtype`` and ``rope_parameters``.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": SPECIAL_TOKENS.index(BOS),
        "eos_token_id": SPECIAL_TOKENS.index(EOS),
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 640,
        "max_position_embeddings": 1024,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }


def token_stream(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """All documents in a row, each from ``<|bos|>`` to ``<|eos|>``."""
    encodings = tokenizer.encode_batch([text + EOS for text in documents])
    return torch.tensor([token for encoding in encodings for token in encoding.ids])


def batches(stream: torch.Tensor, steps: int) -> Iterator[torch.Tensor]:
    """``steps`` batches [BATCH_SIZE, SEQUENCE_LENGTH + 1]; rows in a new order on every pass."""
    width = SEQUENCE_LENGTH + 1
    rows = stream[: len(stream) // width * width].view(-1, width)
    generator = torch.Generator().manual_seed(SEED)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH_SIZE:
            order = torch.randperm(len(rows), generator=generator)
        yield rows[order[:BATCH_SIZE]]
        order = order[BATCH_SIZE:]


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean negative logprob of the next token, in nats."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1]).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to almost nothing."""
    warmup = min(WARMUP_STEPS, max(1, steps // 5))
    return min((step + 1) / warmup, max(0.01, (steps - step) / max(1, steps - warmup)))


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, where it learns faster than AdamW; AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in named if p.ndim != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(stream: torch.Tensor, steps: int, *, tied: bool) -> tuple[LlamaForCausalLM, float]:
    """The trained model and the mean training loss of the last twentieth of the steps."""
    torch.manual_seed(SEED)
    settings = model_config(tied=tied)
    del settings["torch_dtype"]  # float32 while training; only the saved copy is bfloat16
    model = LlamaForCausalLM(LlamaConfig(**settings))
    optimizers = make_optimizers(model)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(step, steps))
        for o in optimizers
    ]
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step, rows in enumerate(batches(stream, steps)):
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        losses.append(loss.item())
        if step % 25 == 0 or step == steps - 1:
            elapsed = time.monotonic() - started
            print(f"step {step:4d}  loss {losses[-1]:.3f}  {elapsed:.0f} s", flush=True)
    tail = losses[-max(1, steps // 20) :]
    return model.eval(), math.fsum(tail) / max(1, len(tail))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, stream: torch.Tensor) -> float:
    width = SEQUENCE_LENGTH + 1
    rows = stream[: len(stream) // width * width].view(-1, width)
    return math.fsum(loss_of(model, row[None]).item() for row in rows) / len(rows)


def next_policy(model: LlamaForCausalLM, stream: torch.Tensor) -> LlamaForCausalLM:
    """``model``, a few small steps closer to worked answers, which a reward would favour."""
    following = (
        copy.deepcopy(model).bfloat16().float().train()
    )  # from the weights as they are stored
    optimizer = torch.optim.AdamW(following.parameters(), lr=NEXT_LR, weight_decay=0.0)
    for rows in batches(stream, NEXT_STEPS):
        loss_of(following, rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    return following.eval()


def solved_problems() -> list[str]:
    """Enough right answers to fill ``next_policy``'s batches."""
    writers = (Writer(random.Random(f"{SEED}/next/{index}")) for index in range(800))
    return [make_problem(writer).text() for writer in writers]


@torch.no_grad()
def mean_difference(
    model: LlamaForCausalLM, following: LlamaForCausalLM, stream: torch.Tensor
) -> float:
    """Mean absolute difference of the two models' logprobs of the stream's tokens, in nats."""
    rows = stream[: SEQUENCE_LENGTH * 8].view(8, SEQUENCE_LENGTH)
    before, after = (
        m(input_ids=rows[:, :-1]).logits.log_softmax(-1).gather(-1, rows[:, 1:, None])
        for m in (model, following)
    )
    return float((after - before).abs().mean())


@torch.no_grad()
def continuation(
    model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str, temperature: float
) -> str:
    """Up to 64 sampled tokens after ``prompt``."""
    generator = torch.Generator().manual_seed(SEED)
    ids = tokenizer.encode(prompt).ids
    start = len(ids)
    while len(ids) < start + 64 and ids[-1] != tokenizer.token_to_id(EOS):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        probabilities = torch.softmax(logits / temperature, dim=-1)
        ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return str(tokenizer.decode(ids[start:], skip_special_tokens=False))


# ------------------------------------------------------------------------------------ the files


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def count(model: LlamaForCausalLM) -> int:
    """The number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def write_weights(model: LlamaForCausalLM, path: Path, *, tied: bool) -> None:
    """bf16 weights; a tied lm_head is left out, as the embeddings hold it."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, path, metadata={"format": "pt"})


def readme(parameters: int, digests: dict[str, str]) -> str:
    weights = "".join(
        f"- sha256 of `{name}/model.safetensors`: `{digest}`\n" for name, digest in digests.items()
    )
    return f"""\
- `tiny/`: a small Llama-architecture model and its tokenizer.
- `prompts.jsonl`: 560 prompts. The first 96 are not in its training data.
- `more-prompts.jsonl`: these, and 3,900 more, which are short and share no prefix.
- `tiny-next/`: the same model after {NEXT_STEPS} more training steps, to test weight updates.
- Created by `python scripts/train_tiny_model.py`, in a few minutes on two CPU cores.
- {parameters:,} parameters in bf16: 4 layers, hidden 256, vocabulary 4096, untied lm_head.
- Licence: Apache-2.0, like the project. The script generates all training text and prompts.
{weights}"""


def write_checkpoint(
    folder: Path, tokenizer: Tokenizer, model: LlamaForCausalLM, *, tied: bool
) -> str:
    """A checkpoint as transformers and vLLM read it. Returns its weights' sha256."""
    ids = {"bos_token_id": SPECIAL_TOKENS.index(BOS), "eos_token_id": SPECIAL_TOKENS.index(EOS)}
    folder.mkdir()
    write_weights(model, folder / "model.safetensors", tied=tied)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "config.json", model_config(tied=tied))
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer))
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write_assets(
    out: Path,
    tokenizer: Tokenizer,
    models: dict[str, LlamaForCausalLM],
    *,
    tied: bool,
) -> dict[str, str]:
    """Write every file aside, then move it into place. Returns the checkpoints' sha256."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        aside = Path(name)
        digests = {
            folder: write_checkpoint(aside / folder, tokenizer, model, tied=tied)
            for folder, model in models.items()
        }
        for file, group in (
            ("prompts.jsonl", make_prompts(tokenizer)),
            ("more-prompts.jsonl", more_prompts(tokenizer)),
        ):
            lines = [json.dumps(prompt.row(), ensure_ascii=False) + "\n" for prompt in group]
            (aside / file).write_text("".join(lines), encoding="utf-8")
        text = readme(count(models["tiny"]), digests)
        (aside / "README.md").write_text(text, encoding="utf-8")
        for path in sorted(p for p in aside.rglob("*") if p.is_file()):
            path.chmod(0o644)
            (out / path.relative_to(aside)).parent.mkdir(exist_ok=True)
            path.replace(out / path.relative_to(aside))
    return digests


# ------------------------------------------------------------------------------------ the command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ASSETS, metavar="DIR", help="default: the package's assets"
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)"
    )
    parser.add_argument("--tied", action="store_true", help="tie the lm_head to the embeddings")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)

    documents = [make_document("train", index) for index in range(TRAIN_DOCUMENTS)]
    tokenizer = train_tokenizer(documents)
    prompts = held_out_prompts(tokenizer)
    stream = token_stream(tokenizer, without_prompts(documents, prompts))
    print(f"{len(documents)} documents, {len(stream)} tokens, {len(prompts)} prompts", flush=True)

    model, train_loss = train(stream, arguments.steps, tied=arguments.tied)
    following = next_policy(model, token_stream(tokenizer, solved_problems()))
    models = {"tiny": model, "tiny-next": following}
    digests = write_assets(arguments.out, tokenizer, models, tied=arguments.tied)

    held_out = [make_document("held-out", index) for index in range(HELD_OUT_DOCUMENTS)]
    unseen = sorted(set(held_out) - set(documents))
    print(f"parameters      {count(model):,}")
    print(f"bytes           {sum(p.stat().st_size for p in (arguments.out / 'tiny').iterdir()):,}")
    print(f"train loss      {train_loss:.3f}")
    unseen_stream = token_stream(tokenizer, unseen)
    print(f"held-out loss   {held_out_loss(model, unseen_stream):.3f}")
    print(f"next, mean |Δ|  {mean_difference(model, following, unseen_stream):.4f} nats")
    print(f"sha256          {digests}")
    for prompt in (prompts[0], prompts[ARITHMETIC_PROMPTS + 3]):
        print(f"--- {prompt.prompt}⟶{continuation(model, tokenizer, prompt.prompt, 0.8)}")


if __name__ == "__main__":
    main()

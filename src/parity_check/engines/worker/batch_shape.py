"""The batch layouts of a trainer: padded rows, or one packed row."""


def batches(requests, layout, most_samples, most_tokens):
    """Split requests into batches; a request that exceeds the limit gets its own batch."""
    batch, sizes = [], []
    for request in requests:
        size = len(request["prompt_token_ids"]) + len(request["completion_token_ids"])
        tokens = sum(sizes) + size
        if layout == "padded":
            tokens = max([*sizes, size]) * (len(batch) + 1)
        if batch and (len(batch) == most_samples or tokens > most_tokens):
            yield batch
            batch, sizes = [], []
        batch.append(request)
        sizes.append(size)
    if batch:
        yield batch


def places(samples, layout):
    """Rows and columns of the positions that predict the completions of (prompt, completion)."""
    rows, columns, first = [], [], 0
    for number, (prompt, completion) in enumerate(samples):
        start = first + len(prompt) - 1
        columns += range(start, start + len(completion))
        rows += [0 if layout == "packed" else number] * len(completion)
        if layout == "packed":
            first += len(prompt) + len(completion)
    return rows, columns


def padded(ids, device):
    """Model inputs with one row per sample, padded on the right."""
    import torch

    longest = max(map(len, ids))
    fill = [longest - len(row) for row in ids]
    return {
        "input_ids": torch.tensor([row + [0] * n for row, n in zip(ids, fill)], device=device),
        "attention_mask": torch.tensor(
            [[1] * (longest - n) + [0] * n for n in fill], device=device
        ),
        "position_ids": torch.arange(longest, device=device).repeat(len(ids), 1),
    }


def packed(ids, device, attention, dtype):
    """Model inputs with all samples in one row; each attends only to itself."""
    import torch

    positions = torch.cat([torch.arange(len(row), device=device) for row in ids])
    inputs = {
        "input_ids": torch.tensor([[token for row in ids for token in row]], device=device),
        "position_ids": positions[None],
    }
    if not attention.startswith("flash"):  # flash attention finds the samples by their positions
        owner = (positions == 0).cumsum(0)
        seen = (owner[:, None] == owner[None, :]).tril()
        mask = torch.zeros(seen.shape, dtype=dtype, device=device)
        inputs["attention_mask"] = mask.masked_fill(~seen, torch.finfo(dtype).min)[None, None]
    return inputs

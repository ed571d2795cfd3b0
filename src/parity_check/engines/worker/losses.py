"""Policy-gradient losses with clipped ratios, as sums that batches of a step add up to.

gspo   each sequence by its geometric mean ratio, sequences alike (arXiv 2507.18071)
grpo   each token by its ratio, averaged over a sequence, sequences alike (arXiv 2402.03300)
ppo    each token by its ratio, all tokens of the step alike (arXiv 1707.06347)

Every loss is -min(r·A, clip(r)·A), with r to the old logprobs. A weight, where there is one, comes
from the importance of the trainer over the rollout engine (TIS) and carries no gradient.
"""

import torch


def segment_mean(values, owner, lengths):
    """The mean [S] of values [n] by sample; `owner` [n] numbers the sample of each."""
    sums = torch.zeros(len(lengths), dtype=values.dtype, device=values.device)
    return sums.index_add(0, owner, values) / lengths


def surrogate(ratio, advantage, low, high):
    """-min(r·A, clip(r)·A)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def loss_sum(kind, new, old, owner, lengths, advantages, low, high, weights=None):
    """The sum of a batch's losses: of sequences, for `ppo` of tokens.

    new, old    [n] logprobs of the tokens, `new` with a gradient
    owner       [n] the sample of each token; lengths, advantages [S] of the samples
    weights     [n] log importance of the trainer over the rollout engine, capped, or None
    """
    delta = new - old
    if kind == "gspo":
        each = surrogate(segment_mean(delta, owner, lengths).exp(), advantages, low, high)
        if weights is not None:
            each = each * segment_mean(weights, owner, lengths).exp()
        return each.sum()
    each = surrogate(delta.exp(), advantages[owner], low, high)
    if weights is not None:
        each = each * weights.exp()
    return each.sum() if kind == "ppo" else segment_mean(each, owner, lengths).sum()

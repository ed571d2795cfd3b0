"""The processes of one engine: every rank is asked, and all must agree.

An answer of rank 0 alone says nothing about the others: with an environment variable or a weight
update that only one process got, the engine computes with two halves of different models.
"""

from failures import WorkerFailure


def agreed(answers):
    """One {name: value} for all ranks; None stands for what a rank cannot know.

    On V0 only rank 0 gathers the logits, and a scheduler is in one process at most.
    """
    found = {}
    for rank, answer in enumerate(answers):
        for name, value in answer.items():
            first, known = found.setdefault(name, (rank, value))
            if known is None:
                found[name] = (rank, value)
            elif value is not None and value != known:
                raise disagreement(name, first, known, rank, value)
    return {name: value for name, (_, value) in found.items()}


def disagreement(what, first, one, second, other):
    return WorkerFailure(
        "ranks_differ",
        f"the processes of the engine disagree about {what}: rank {first} has {one}, "
        f"rank {second} has {other}",
    )


def by_rank(answers):
    """{name: value} of all ranks; names include the rank if there are several."""
    return {
        f"rank {rank}: {name}" if len(answers) > 1 else name: value
        for rank, each in enumerate(answers)
        for name, value in each.items()
    }


def check_names(answers):
    """Check that all ranks have the same parameters, and equal norms, which none divides."""
    for rank, each in enumerate(answers[1:], 1):
        if lone := sorted(answers[0].keys() ^ each.keys()):
            count = f"{len(each)} (not on both: {lone[0]})"
            raise disagreement("the number of parameters", 0, len(answers[0]), rank, count)
        for name, value in each.items():
            if "norm" in name.lower() and value != answers[0][name]:
                raise disagreement(f"the weights of {name}", 0, answers[0][name], rank, value)


def whole(answers, is_layer):
    """Names of the outputs that are equal on all ranks that have them; the others are shards.

    `answers` are {name: digest}, one for each rank. A layer's output is never divided.
    """
    kept = []
    for name, digest in answers[0].items():
        differing = [rank for rank, each in enumerate(answers) if each.get(name, digest) != digest]
        if differing and is_layer(name):
            raise disagreement(
                f"the output of {name}", 0, digest, differing[0], answers[differing[0]][name]
            )
        if not differing:
            kept.append(name)
    return kept

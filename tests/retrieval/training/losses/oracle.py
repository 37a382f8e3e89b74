"""Every loss once more, entry by entry with scalars in plain loops, as slow and as literal as can be.

Nothing of retrieval.training.losses is used but the Pair's fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from retrieval.training.losses import Distance, Negatives, Pair

POSITIVE, NEGATIVE, NEITHER = 1, -1, 0
Table = list[list[Tensor]]
Kinds = list[list[int]]


def zero(pair: Pair) -> Tensor:
    return (pair.a[0, 0] + pair.b[0, 0]) * 0.0


def cosine_table(pair: Pair) -> Table:
    return [[(x * y).sum() for y in pair.b] for x in pair.a]


def kind_table(pair: Pair) -> Kinds:
    table = []
    for i in range(len(pair.a)):
        line = []
        for j in range(len(pair.b)):
            if pair.ignore is not None and bool(pair.ignore[i, j]):
                line.append(NEITHER)
            else:
                line.append(POSITIVE if bool(pair.positive[i, j]) else NEGATIVE)
        table.append(line)
    return table


def turned(table: Sequence[Sequence]) -> list[list]:
    return [list(line) for line in zip(*table, strict=True)]


def averaged(terms: Sequence[Tensor | None], weights: Tensor | None, nothing: Tensor) -> Tensor:
    """Weighted mean of the terms that are not None."""
    top, bottom = nothing, 0.0
    for place, term in enumerate(terms):
        if term is not None:
            weight = 1.0 if weights is None else float(weights[place])
            top, bottom = top + weight * term, bottom + weight
    return top / bottom if bottom > 0 else nothing


def both_ways(pair: Pair, row_terms: Callable[[int], list[Tensor | None]]) -> Tensor:
    """Mean over the two directions; `row_terms(0)` are of rows, `row_terms(1)` of columns."""
    nothing = zero(pair)
    rows = averaged(row_terms(0), pair.weight, nothing)
    return (rows + averaged(row_terms(1), pair.weight_b, nothing)) / 2.0


def log_sum(values: Sequence[Tensor]) -> Tensor:
    top = max(value.item() for value in values)
    total = sum((torch.exp(value - top) for value in values[1:]), start=torch.exp(values[0] - top))
    return torch.log(total) + top


def infonce(pair: Pair, *, smoothing: float = 0.0) -> Tensor:
    logits = [[pair.scale * one for one in line] for line in cosine_table(pair)]

    def terms(way: int) -> list[Tensor | None]:
        tables = (logits, kind_table(pair))
        lines = zip(*(tables if way == 0 else map(turned, tables)), strict=True)
        found: list[Tensor | None] = []
        for line, kinds in lines:
            there = [j for j, kind in enumerate(kinds) if kind != NEITHER]
            near = [j for j, kind in enumerate(kinds) if kind == POSITIVE]
            if not near:
                found.append(None)
                continue
            bottom = log_sum([line[j] for j in there])
            term = zero(pair)
            for j in there:
                target = (1 - smoothing) * (1 / len(near) if j in near else 0.0) + smoothing / len(there)
                term = term - target * (line[j] - bottom)
            found.append(term)
        return found

    return both_ways(pair, terms)


def sigmoid(pair: Pair) -> Tensor:
    cosines = cosine_table(pair)

    def terms(way: int) -> list[Tensor | None]:
        tables = (cosines, kind_table(pair))
        found: list[Tensor | None] = []
        for line, kinds in zip(*(tables if way == 0 else map(turned, tables)), strict=True):
            term = zero(pair)
            for cosine, kind in zip(line, kinds, strict=True):
                if kind != NEITHER:
                    z = 1.0 if kind == POSITIVE else -1.0
                    term = term + torch.log(1.0 + torch.exp(-z * (pair.scale * cosine + pair.bias)))
            found.append(term if POSITIVE in kinds else None)
        return found

    return both_ways(pair, terms)


def triplet(
    pair: Pair, *, margin: float, negatives: Negatives, distance: Distance, seed: int | None = None
) -> Tensor:
    draw = None if seed is None else torch.Generator().manual_seed(seed)
    if distance is Distance.COSINE:
        table = [[1.0 - one for one in line] for line in cosine_table(pair)]
    else:
        table = [[((x - y) ** 2).sum().sqrt() for y in pair.b] for x in pair.a]

    def pick(line: list[Tensor], far: list[int], own: Tensor) -> int:
        if negatives is Negatives.RANDOM:
            return -1
        if negatives is Negatives.HARDEST:
            return min(far, key=lambda j: line[j].item())
        behind = [j for j in far if line[j].item() > own.item()]
        return min(behind, key=lambda j: line[j].item()) if behind else max(far, key=lambda j: line[j].item())

    def terms(way: int) -> list[Tensor | None]:
        tables = (table, kind_table(pair))
        lines = list(zip(*(tables if way == 0 else map(turned, tables)), strict=True))
        drawn: list[float] = []
        if negatives is Negatives.RANDOM:
            pairs = sum(kinds.count(POSITIVE) for _, kinds in lines if NEGATIVE in kinds)
            drawn = torch.rand(pairs, generator=draw, dtype=torch.float64).tolist()
        found: list[Tensor | None] = []
        for line, kinds in lines:
            near = [j for j, kind in enumerate(kinds) if kind == POSITIVE]
            far = [j for j, kind in enumerate(kinds) if kind == NEGATIVE]
            if not near or not far:
                found.append(None)
                continue
            total = zero(pair)
            for p in near:
                n = far[math.floor(drawn.pop(0) * len(far))] if drawn else pick(line, far, line[p])
                gap = margin + line[p] - line[n]
                total = total + (gap if gap.item() > 0 else 0.0)
            found.append(total / len(near))
        return found

    return both_ways(pair, terms)


def supcon(pair: Pair) -> Tensor:
    """Over the joined batch; which two of a side go together is found by following entries of the other."""
    n, m = len(pair.a), len(pair.b)
    across = kind_table(pair)
    vectors = [*pair.a, *pair.b]

    def relation(i: int, k: int) -> int:
        if i == k:
            return NEITHER
        if (i < n) != (k < n):
            return across[min(i, k)][max(i, k) - n]
        table = across if i < n else turned(across)
        one, other = (table[i], table[k]) if i < n else (table[i - n], table[k - n])
        both = list(zip(one, other, strict=True))
        if (POSITIVE, POSITIVE) in both:
            return POSITIVE
        return NEITHER if (POSITIVE, NEITHER) in both or (NEITHER, POSITIVE) in both else NEGATIVE

    terms: list[Tensor | None] = []
    for i, anchor in enumerate(vectors):
        kinds = {k: relation(i, k) for k in range(n + m)}
        near = [k for k, kind in kinds.items() if kind == POSITIVE]
        if not near:
            terms.append(None)
            continue
        logits = {k: pair.scale * (anchor * vectors[k]).sum() for k, kind in kinds.items() if kind != NEITHER}
        bottom = log_sum(list(logits.values()))
        terms.append(-sum((logits[k] - bottom for k in near), start=zero(pair)) / len(near))
    weights = None
    if pair.weight is not None and pair.weight_b is not None:
        weights = torch.cat([pair.weight, pair.weight_b])
    return averaged(terms, weights, zero(pair))


def distill(pair: Pair, *, temperature: float) -> Tensor:
    assert pair.teacher is not None
    logits = [[pair.scale * one for one in line] for line in cosine_table(pair)]
    teacher = pair.teacher.tolist()

    def terms(way: int) -> list[Tensor | None]:
        tables = (logits, kind_table(pair), teacher)
        found: list[Tensor | None] = []
        for line, kinds, goal in zip(*(tables if way == 0 else map(turned, tables)), strict=True):
            there = [j for j, kind in enumerate(kinds) if kind != NEITHER and not math.isnan(goal[j])]
            if not there:
                found.append(None)
                continue
            bottom = log_sum([line[j] for j in there])
            whole = sum(math.exp(goal[j] / temperature) for j in there)
            term = zero(pair)
            for j in there:
                p = math.exp(goal[j] / temperature) / whole
                term = term + p * (math.log(p) - (line[j] - bottom))
            found.append(term)
        return found

    return both_ways(pair, terms)

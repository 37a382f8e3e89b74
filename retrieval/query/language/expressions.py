"""Expressions put together and checked, which every written form of a query shares. No text, no vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from retrieval.types import AllOf, AnyOf, Expression, Not, Term

MIN_WEIGHT = 0.001
MAX_WEIGHT = 1000.0
MAX_TERMS = 64  # each is encoded, and asks for candidates of its own
MAX_DEPTH = 32  # groups in groups
WEIGHTS = f"a weight lies between {MIN_WEIGHT:g} and {MAX_WEIGHT:g}; 1 is usual"


def weight_fault(weight: float) -> str | None:
    """What is wrong with a weight, in a few words; None where nothing is."""
    if math.isnan(weight):
        return "a weight is not a number"
    if weight <= 0:
        return f"a weight of {weight:g} is not positive"
    if weight > MAX_WEIGHT:
        return f"a weight of {weight:g} is too large"
    return f"a weight of {weight:g} is too small" if weight < MIN_WEIGHT else None


def reweighted(expression: Expression, weight: float) -> Expression:
    """An expression that weighs so much more."""
    return replace(expression, weight=expression.weight * weight)


def all_of(parts: Sequence[Expression]) -> Expression:
    """Every part; the part itself where there is one."""
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def any_of(parts: Sequence[Expression]) -> Expression:
    """One of the parts; the part itself where there is one."""
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def negated(expression: Expression) -> Expression:
    """An expression that must not match; one that must not already is what it was before.

    That one weighs what both did, which `weight_fault` may find fault with.
    """
    if isinstance(expression, Not):
        return reweighted(expression.part, expression.weight)
    return Not(expression)


def asks(expression: Expression) -> bool:
    """Whether there is something to look for. What must not match only leaves out."""
    if isinstance(expression, Term):
        return True
    if isinstance(expression, Not):
        return False
    told = map(asks, expression.parts)
    return any(told) if isinstance(expression, AllOf) else all(told)


def influences(expression: Expression, weight: float = 1.0) -> list[float]:
    """Each term's weight with those of its groups, from left to right; negative where it must not match."""
    own = weight * expression.weight
    if isinstance(expression, Term):
        return [own]
    if isinstance(expression, Not):
        return [-one for one in influences(expression.part, own)]
    return [one for part in expression.parts for one in influences(part, own)]

"""Shoppers and items of several requests as rows, one behind the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bento.schemas import PredictRequest


@dataclass(frozen=True)
class Pairs:
    """Row i is the pair (users[i], items[i]); `slices` holds each request's rows."""

    users: list[str]
    items: list[str]
    slices: list[slice]


def pairs_of(requests: Sequence[PredictRequest], candidates: Mapping[str, list[str]]) -> Pairs:
    """The rows of the requests; shoppers asked for without items get their candidates."""
    pairs = Pairs([], [], [])
    for request in requests:
        named = request.item_ids
        items = list(dict.fromkeys(candidates.get(request.user_id, []) if named is None else named))
        pairs.slices.append(slice(len(pairs.items), len(pairs.items) + len(items)))
        pairs.users.extend([request.user_id] * len(items))
        pairs.items.extend(items)
    return pairs


def ranked(items: Sequence[str], probabilities: NDArray[np.float64], part: slice) -> list[int]:
    """The rows of `part`, the likeliest first; ties go by item id."""
    rows = range(part.start, part.stop)
    return sorted(rows, key=lambda row: (-probabilities[row], items[row]))

"""Means over all tokens of an optimiser step, however it is cut into micro-batches and processes."""

from collections.abc import Callable

import torch
from torch import Tensor


class Tally:
    """Sums and counts by name; a mean of micro-batches' means would let short micro-batches count too much."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add to what is averaged: a sum and the number of its parts, of this process's micro-batch."""
        pair = torch.stack([torch.as_tensor(value).detach().double().cpu() for value in (total, count)])
        self.sums[name] = self.sums.get(name, 0) + pair

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means so far, NaN where nothing was counted; and begin anew.

        Args:
            reduce: Sums a tensor over processes, all of which must have added the same names.
        """
        names = sorted(self.sums)
        if not names:
            return {}
        totals = reduce(torch.stack([self.sums[name] for name in names]))
        self.sums = {}
        return {name: (total / count).item() for name, (total, count) in zip(names, totals, strict=True)}

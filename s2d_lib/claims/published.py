"""Published figures: what the papers print, beside what the study measures. Differences are computed from cells."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from s2d_lib.study.strict import Strict

AVERAGE = "average"  # of paper B's five benchmarks


@dataclass(frozen=True)
class Cell:
    """One printed number.

    Attributes:
        mean: In percent (or seconds a step).
        error: The printed standard error in points; None where none is printed.
        parts: (percent, number of problems) of the sets that it is the unweighted mean of: mostly one.
        source: The table or tables that print it.
    """

    mean: float
    error: float | None
    parts: tuple[tuple[float, int], ...]
    source: str


@dataclass(frozen=True)
class Difference:
    """A published difference: two cells of one set."""

    better: Cell
    than: Cell

    @property
    def value(self) -> float:
        """In points."""
        return round(self.better.mean - self.than.mean, 1)

    @property
    def source(self) -> str:
        """Where the cells are printed, and the cells."""
        tables = "; ".join(dict.fromkeys((self.better.source, self.than.source)))
        return f"{tables}: {self.better.mean} - {self.than.mean}"


class RowsOfA(Strict):
    """Rows of a table of paper A."""

    family: str  # of models, as in claims.yaml
    source: str
    rows: dict[str, dict[str, tuple[float, float]]]  # checkpoint of the study -> set -> mean in percent, printed error
    repeats: list[str] = Field(default_factory=list)  # rows of another table that this one prints again


class RowsOfB(Strict):
    """Rows of a table of paper B."""

    model: str
    source: str
    unit: Literal["percent", "seconds a step"] = "percent"
    rows: dict[str, dict[float, dict[str, float]]]  # method -> hours of training -> set -> value
    repeats: list[str] = Field(default_factory=list)


class Published(Strict):
    """params/published.yaml."""

    samples: int  # of every problem
    problems: dict[Literal["A", "B"], dict[str, int]]  # of every paper's sets
    paper_a: list[RowsOfA]
    paper_b: list[RowsOfB]

    @model_validator(mode="after")
    def _every_cell_once(self):
        rows = [
            (f"{block.family} {route}", set(cells), set(self.problems["A"]))
            for block in self.paper_a
            for route, cells in block.rows.items()
        ]
        for unit in ("percent", "seconds a step"):
            for model, method, hours, _, cells in self.rows_of_b(unit):
                only_average = unit != "percent" or AVERAGE in cells
                sets = {AVERAGE} if only_average else set(self.problems["B"])
                rows.append((f"{model} {method} {hours:g} h {unit}", set(cells), sets))
        seen: set[str] = set()
        for row, given, sets in rows:
            if row in seen:
                raise ValueError(f"the row {row!r} stands twice (one that is printed again belongs to `repeats`)")
            if given != sets:
                say = lambda names: ", ".join(sorted(names)) or "no set"  # noqa: E731
                raise ValueError(f"the row {row!r} needs a cell for each of {say(sets)}, given {say(given)}")
            seen.add(row)
        for block in (*self.paper_a, *self.paper_b):
            known = {route for other in (*self.paper_a, *self.paper_b) for route in other.rows}
            if unknown := sorted(set(block.repeats) - known):
                raise ValueError(f"the rows of {block.source} repeat {unknown[0]!r}, which no table has")
        return self

    @cached_property
    def accuracies(self) -> dict[tuple[str, str, str, float | None], Cell]:
        """Cells by (family, checkpoint, set, None) for paper A and (model, method, set, hours) for paper B."""
        found = {
            (block.family, route, name, None): Cell(mean, error, ((mean, self.problems["A"][name]),), block.source)
            for block in self.paper_a
            for route, cells in block.rows.items()
            for name, (mean, error) in cells.items()
        }
        for model, method, hours, source, cells in self.rows_of_b("percent"):
            parts = {name: (cells.get(name, cells.get(AVERAGE)), n) for name, n in self.problems["B"].items()}
            mean = round(float(np.mean([mean for mean, _ in parts.values()])), 1)
            found[model, method, AVERAGE, hours] = Cell(mean, None, tuple(parts.values()), source)
            for name in cells.keys() - {AVERAGE}:
                found[model, method, name, hours] = Cell(cells[name], None, (parts[name],), source)
        return found

    def rows_of_b(self, unit: str) -> Iterator[tuple[str, str, float, str, dict[str, float]]]:
        """Paper B's rows: model, method, hours, source and cells."""
        for block in self.paper_b:
            if block.unit == unit:
                for method, budgets in block.rows.items():
                    for hours, cells in budgets.items():
                        yield block.model, method, hours, block.source, cells

    def cell(self, family: str, route: str, name: str, hours: float | None = None) -> Cell | None:
        """An accuracy of paper A, or with `hours` of paper B (then `family` is its model, `route` its method); None where it
        is not printed."""
        return self.accuracies.get((family, route, name, hours))

    def difference(
        self, family: str, better: str, than: str, name: str, hours: float | None = None
    ) -> Difference | None:
        """`better` minus `than` on a set, from the two cells; None where one is not printed."""
        high, low = (self.cell(family, route, name, hours) for route in (better, than))
        return Difference(high, low) if high and low else None

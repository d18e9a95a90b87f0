"""Published figures: what the papers report, beside what the study measures. None is ever guessed."""

from typing import Literal

from pydantic import model_validator

from s2d_lib.study.strict import Strict


class Figure(Strict):
    """One published number."""

    paper: Literal["A", "B"]
    family: str | None = None  # the models; none where they are not known here
    route: str  # a checkpoint of the study (paper A) or a method (paper B)
    against: str | None = None  # the value is the difference to this route
    set: str | None = None  # as the paper calls it; none where it is not known or does not apply
    hours: float | None = None  # of training (paper B)
    value: float
    unit: Literal["percent", "points", "seconds per step"]
    source: str

    @model_validator(mode="after")
    def _differences_are_in_points(self):
        if (self.unit == "points") != (self.against is not None):
            raise ValueError("a difference has `against` and is in points; an accuracy has neither")
        return self

    @property
    def what(self) -> tuple:
        """What it is a value of."""
        return self.paper, self.family, self.route, self.against, self.set, self.hours, self.unit


class Difference(Strict):
    """A published difference in points and where it comes from."""

    value: float
    source: str


class Published(Strict):
    """params/published.yaml."""

    figures: list[Figure]

    @model_validator(mode="after")
    def _each_once(self):
        seen: set[tuple] = set()
        for figure in self.figures:
            if figure.what in seen:
                raise ValueError(f"{figure.route!r} against {figure.against!r} on {figure.set!r} stands twice")
            seen.add(figure.what)
        return self

    def difference(self, family: str, better: str, than: str, name: str) -> Difference | None:
        """Paper A's `better` minus `than` on a set, as published or from two published accuracies; None if neither."""
        found = {
            (figure.route, figure.against): figure
            for figure in self.figures
            if figure.paper == "A" and figure.family == family and figure.set == name
        }
        if figure := found.get((better, than)):
            return Difference(value=figure.value, source=figure.source)
        if figure := found.get((than, better)):
            return Difference(value=-figure.value, source=figure.source)
        if (high := found.get((better, None))) and (low := found.get((than, None))):
            sources = " and ".join(dict.fromkeys((high.source, low.source)))
            return Difference(value=round(high.value - low.value, 6), source=f"{sources}: {high.value} - {low.value}")
        return None

"""The map of a profile: the same routes once more in every cell of a grid of dials, each with the same number of trials."""

from collections.abc import Iterator, Mapping
from itertools import product

from pydantic import Field, model_validator

from s2d_lib.study.strict import Strict

Settings = dict[str, str]
"""Dial -> the name of one of its values."""


def settings_text(settings: Mapping[str, str]) -> str:
    """Dials and their values as one word, `opening=0.03,labels=16`."""
    return ",".join(f"{dial}={value}" for dial, value in settings.items())


def settings_of(text: str) -> dict[str, str]:
    """The dials of `settings_text`."""
    return dict(word.split("=", 1) for word in text.split(",")) if text else {}


class Part(Strict):
    """One question to the map: routes in every cell of a grid."""

    title: str
    across: dict[str, list[str]] = Field(min_length=1)  # dial -> names of its values; cells are their product
    at: Settings = Field(default_factory=dict)  # further dials, the same in all cells
    # Route -> what is tried of it in every cell: dials, whose product are its trials.
    routes: dict[str, dict[str, list[str]]] = Field(min_length=1)

    @property
    def cells(self) -> list[Settings]:
        """Every cell's own dials."""
        return list(_grid(self.across))

    def trials(self, route: str) -> list[Settings]:
        """What is tried of a route."""
        return list(_grid(self.routes[route]))

    @model_validator(mode="after")
    def _as_many_trials_for_all(self):
        trained = {route: len(self.trials(route)) for route, tried in self.routes.items() if tried}
        if len(set(trained.values())) > 1:
            raise ValueError(f"routes must have the same number of trials in a cell, or none: {trained}")
        return self


class Map(Strict):
    """What can be turned, and the grids that are made of it."""

    # Dial -> name of a value -> what it lays over the profile, nested as `overrides` are.
    dials: dict[str, dict[str, dict[str, object]]]
    parts: dict[str, Part]

    @model_validator(mode="after")
    def _dials_are_declared(self):
        for name, part in self.parts.items():
            for dials in (part.across, {dial: [value] for dial, value in part.at.items()}, *part.routes.values()):
                for dial, values in dials.items():
                    for value in values:
                        if value not in self.dials.get(dial, {}):
                            known = ", ".join(f"{d}: {', '.join(v)}" for d, v in self.dials.items())
                            raise ValueError(
                                f"part {name!r} turns {dial!r} to {value!r}, which is not declared ({known})"
                            )
        return self


def _grid(dials: dict[str, list[str]]) -> Iterator[Settings]:
    return (dict(zip(dials, values, strict=True)) for values in product(*dials.values()))

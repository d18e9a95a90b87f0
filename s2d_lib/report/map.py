"""The map in numbers: every cell's routes at their best trial, differences between routes, and the untrained models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims.bootstrap import Estimate, bootstrap
from s2d_lib.report.run_pages import markdown
from s2d_lib.report.style import interval, route_label
from s2d_lib.results.map import MapResults, read_map
from s2d_lib.study import load_profile, load_study, project_root
from s2d_lib.study.page import Study
from s2d_lib.study.profile import Map, Part, settings_of, settings_text
from s2d_lib.study.settings import MAIN

OPD, BRIDGE, FORWARD = "student.opd_only.rl_teacher", "student.bridge.rl_teacher", "student.forward_kl_only.rl_teacher"
BEST = "best"
"""In the place of a decoding: the one at which an untrained model is most often right on a set."""


@dataclass(frozen=True)
class Chart:
    """A map with its results.

    Attributes:
        map: What was asked for.
        results: What came.
        study: The page, which says what is a base model.
    """

    map: Map
    results: MapResults
    study: Study

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are results of."""
        there = set(self.results.points["part"])
        return {name: part for name, part in self.map.parts.items() if name in there}

    @property
    def sets(self) -> list[str]:
        """Names of the evaluation sets."""
        return list(self.results.cells["set"].unique())

    @property
    def main_sets(self) -> list[str]:
        """Those that are like the pool, easy and hard; the others ask what has been forgotten."""
        return [name for name in self.sets if not name.startswith("known-")]

    @property
    def decodings(self) -> list[str]:
        """Names of the decodings of all runs, the main one first; untrained models have more."""
        counts = self.results.cells.groupby("decoding", sort=False).size()
        return list(counts[counts == counts[MAIN]].index)

    def runs(self, part: str, cell: dict[str, str], route: str) -> tuple[str, list[tuple[str, int]]]:
        """A route's best trial in a cell, and its runs (see MapResults.best_trial)."""
        return self.results.best_trial(part, settings_text(cell), route)

    def accuracy(self, part: str, cell: dict[str, str], route: str, name: str, decoding: str = MAIN) -> np.ndarray:
        """Accuracies of a route's best trial, shape (seeds, problems). With decoding BEST they are of an untrained model at the
        decoding with the highest mean on this very set, which favours it."""
        _, runs = self.runs(part, cell, route)
        if decoding == BEST:
            at = self.results.cells.loc[self.results.cells["run"] == runs[0][0], "decoding"].unique()
            return max((self.results.accuracy(runs, name, one) for one in at), key=np.mean)
        return self.results.accuracy(runs, name, decoding)

    def estimate(self, part: str, cell: dict[str, str], route: str, name: str, decoding: str = MAIN) -> Estimate:
        """The mean of `accuracy` with its 95% interval over seeds and problems."""
        return bootstrap(self.accuracy(part, cell, route, name, decoding))

    def difference(
        self, part: str, cell: dict[str, str], better: str, than: str, name: str, decoding: str = MAIN
    ) -> Estimate:
        """How far a route is ahead of another in a cell, paired by seed and problem, with its 95% interval."""
        return bootstrap(*(self.accuracy(part, cell, route, name, decoding) for route in (better, than)))

    def untrained(self, route: str) -> bool:
        """Whether a route is a base model."""
        return self.study.checkpoints[route].stage == "base"


def open_chart(profile: str) -> Chart:
    """The map of a profile with its committed results.

    Raises:
        StudyError: There are none, or they are broken.
    """
    return Chart(load_profile(profile).map, read_map(project_root() / "figures" / profile / "results"), load_study())


def cells_table(chart: Chart) -> pd.DataFrame:
    """All of the map: a row a part, cell, route, set and decoding, with the mean accuracy and its 95% interval over seeds and
    problems, the trial that was chosen, and what the route's own last stage took. Untrained models have one more row a set, at
    their best decoding."""
    rows = []
    facts = chart.results.runs.set_index(["run", "seed"])
    for part, spec in chart.parts.items():
        for cell in spec.cells:
            for route in spec.routes:
                trial, runs = chart.runs(part, cell, route)
                own = facts.loc[runs]
                common = {
                    "part": part, "cell": settings_text(cell), "route": route, "trial": trial, "seeds": len(runs),
                    "runs": " ".join(f"{run}#{seed}" for run, seed in runs), "seconds": round(own["seconds"].mean(), 1),
                    "steps": int(own["steps"].mean()), "gradings": int(own["gradings"].mean()),
                    "validation": own["validation"].mean(),
                }  # fmt: skip
                decodings = [*chart.decodings, *([BEST] if chart.untrained(route) else [])]
                for name in chart.sets:
                    for decoding in decodings:
                        found = chart.estimate(part, cell, route, name, decoding)
                        rows.append(
                            common
                            | {
                                "set": name,
                                "decoding": decoding,
                                "accuracy": found.mean,
                                "low": found.low,
                                "high": found.high,
                            }
                        )
    return pd.DataFrame(rows)


def surface(chart: Chart, part: str, name: str, decoding: str = MAIN) -> pd.DataFrame:
    """What a warmup brings over OPD alone, by the share of steps that it takes.

    Args:
        chart: The map.
        part: One across another dial and one of shares, whose name begins with `warmup`.
        name: Of the evaluation set.
        decoding: Of both.

    Returns:
        A row a value of the other dial and share of warmup (1 is forward KL alone): the dial, `warmup`, `difference`, `low`,
        `high` and the `cell`.
    """
    spec = chart.parts[part]
    dial, share_dial = sorted(spec.across, key=lambda name: name.startswith("warmup"))
    rows = []
    for value in spec.across[dial]:
        ways = [(share, BRIDGE) for share in spec.across[share_dial]] + [("1", FORWARD)]
        for share, route in ways:
            cell = {
                key: value if key == dial else share if share != "1" else spec.across[share_dial][0]
                for key in spec.across
            }
            found = chart.difference(part, cell, route, OPD, name, decoding)
            rows.append(
                {dial: value, "warmup": share, "difference": found.mean, "low": found.low, "high": found.high,
                 "cell": settings_text(cell)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def apart_table(chart: Chart, part: str) -> pd.DataFrame:
    """How far teacher and student are apart before OPD begins, by the dials of a part's cells: what BEFORE names, means over
    seeds (conditions C1 and C2)."""
    facts = chart.results.runs.set_index(["run", "seed"])
    rows = {}
    for cell in chart.parts[part].cells:
        _, runs = chart.runs(part, cell, OPD)
        own = {dial: value for dial, value in cell.items() if not dial.startswith("warmup")}
        rows[settings_text(own)] = own | facts.loc[runs].filter(regex="_states$").mean().to_dict()
    return pd.DataFrame(rows.values())


def read_cell(text: str) -> str:
    """A cell for readers: `opening 1e-4, warmup 1/4`."""
    return ", ".join(f"{dial} {value}" for dial, value in settings_of(text).items())


def cell_title(cell: dict[str, str]) -> str:
    """A cell for a heading: `hard end`, of several dials as `read_cell` has them."""
    if len(cell) > 1:
        return read_cell(settings_text(cell))
    ((dial, value),) = cell.items()
    return f"{value} {dial}"


def cell_page(part: str, cell: str) -> str:
    """Where a cell's runs are listed, as seen from the figures beside it."""
    return f"cells/{part}.md#{''.join(c if c.isalnum() else '-' for c in cell)}"


def write_pages(chart: Chart, numbers: pd.DataFrame, folder: Path) -> None:
    """Write `cells/<part>.md`: for every cell its routes, at all decodings, and their runs.

    Args:
        chart: The map.
        numbers: From `cells_table`.
        folder: figures/<profile>.
    """
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    for part, rows in numbers.groupby("part", sort=False):
        lines = [f"# {chart.map.parts[part].title}\n"]
        for cell, own in rows.groupby("cell", sort=False):
            anchor = cell_page(part, cell).partition("#")[2]
            lines += [f'<a id="{anchor}"></a>\n', f"## {read_cell(cell)}\n", markdown(_readable(own)), ""]
            for route, of_route in own.groupby("route", sort=False):
                first = of_route.iloc[0]
                tried = f", tried best: {read_cell(first['trial'])}" if first["trial"] else ""
                lines.append(f"- {route_label(route)}{tried}: runs {first['runs'].replace('#', ' seed ')}")
            lines.append("")
        (folder / "cells" / f"{part}.md").write_text("\n".join(lines), encoding="utf-8")


def _readable(rows: pd.DataFrame) -> pd.DataFrame:
    text = [f"{100 * a:.1f} [{100 * b:.1f}, {100 * c:.1f}]" for a, b, c in rows[["accuracy", "low", "high"]].to_numpy()]
    table = rows.assign(text=text, route=rows["route"].map(route_label)).pivot(
        index=["route", "decoding"], columns="set", values="text"
    )
    return table[list(rows["set"].unique())].reset_index()


def routes_table(chart: Chart, part: str) -> pd.DataFrame:
    """For readers: accuracy of all routes of a part in percent, with 95% intervals over seeds and problems, a column a cell and
    main set; untrained models once more at the temperature that suits them best there.

    Args:
        chart: The map.
        part: Which.
    """
    spec, rows = chart.parts[part], []
    for route in spec.routes:
        for decoding in (MAIN, BEST) if chart.untrained(route) else (MAIN,):
            name = route_label(route) + (", at its best temperature" if decoding == BEST else "")
            found = {
                f"{cell_title(cell)}: {one}": chart.estimate(part, cell, route, one, decoding)
                for cell in spec.cells
                for one in chart.main_sets
            }
            rows.append({"route": name} | {key: interval(e.mean, e.low, e.high) for key, e in found.items()})
    return pd.DataFrame(rows)


def differences_table(chart: Chart, part: str, reference: str) -> pd.DataFrame:
    """For readers: how far a part's other trained routes are ahead of one, cell by cell and set by set, points with intervals.

    Args:
        chart: The map.
        part: Which.
        reference: A route of it.
    """
    spec, rows = chart.parts[part], []
    others = [route for route in spec.routes if route != reference and not chart.untrained(route)]
    for cell in spec.cells:
        for route in others:
            found = {name: chart.difference(part, cell, route, reference, name) for name in chart.sets}
            text = {name: f"{100 * e.mean:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]" for name, e in found.items()}
            rows.append(cell | {"route": f"{route_label(route)} - {route_label(reference)}"} | text)
    return pd.DataFrame(rows)

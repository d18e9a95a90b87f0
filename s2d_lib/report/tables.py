"""How numbers become tables: one format of an interval, one sheet of tables, one writer of files."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from s2d_lib.claims import Estimate
from s2d_lib.report.looks import route_label
from s2d_lib.report.style import asked_formats
from s2d_lib.results.bundle import BEST

PAGES = "runs"
COUNT = "{:,.0f}".format
LINK = re.compile(r"\[([^\]]+)\]\(\S+?\.md\)")
pd.set_option("display.max_colwidth", None)  # notebooks show claims' sentences whole


def interval(mean: float, low: float, high: float, scale: float = 100, digits: int = 1, signed: bool = False) -> str:
    """`75.3 [70.1, 80.2]`: a share as percent, or in another scale; empty for nothing, without brackets for no interval."""
    value, *ends = (f"{scale * number:{'+' if signed else ''}.{digits}f}" for number in (mean, low, high))
    return "" if mean != mean else value if low != low else f"{value} [{', '.join(ends)}]"


def intervals(table: pd.DataFrame, name: str, **form) -> list[str]:
    """The columns `<name>`, `<name> low` and `<name> high` of a table (or `low` and `high`), as `interval` formats them."""
    found = ends(name) if f"{name} low" in table else [name, "low", "high"]
    return [interval(*row, **form) for row in table[found].to_numpy(dtype=float)]


def ends(name: str) -> list[str]:
    """The columns of an estimate."""
    return [name, f"{name} low", f"{name} high"]


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a table."""
    return dict(zip(ends(name), estimate, strict=True))


def pivoted(table: pd.DataFrame, row: str, column: str, cells: Iterable[str], empty: str = "") -> pd.DataFrame:
    """Cells as a wide table, whose rows and columns come in the order of their names."""
    wide = table.assign(cell=list(cells)).pivot(index=row, columns=column, values="cell").fillna(empty)
    return wide.loc[table[row].unique(), table[column].unique()].rename_axis(columns=None).reset_index()


def run_page(checkpoint: str) -> str:
    """Where a checkpoint's page lies, as seen from the tables and figures beside it."""
    return f"{PAGES}/{checkpoint.removesuffix(BEST)}.md"


def link(label: str, checkpoint: str, start: str = "") -> str:
    """A label that leads to the checkpoint's page, in Markdown; `start` leads to the page's profile."""
    return f"[{label}]({start}{run_page(checkpoint)})"


def contrast_label(better: str, than: str, sign: str = " > ") -> str:
    """`a > b` in readers' words, what both have in common behind it."""
    left, right = (route_label(name).split(", ") for name in (better, than))
    common = [word for word in left if word in right]
    own = [", ".join(word for word in words if word not in common) for words in (left, right)]
    if len(left) != len(right) and (all(own) or left[0] != right[0]):  # what is left would read as another route
        return f"{route_label(better)}{sign}{route_label(than)}"
    own = [words or f"{left[0]} alone" for words in own]  # one adds to the other
    return " · ".join(filter(None, [sign.join(own), ", ".join(common)]))


@dataclass(frozen=True)
class Sheet:
    """One analysis: all of its numbers, and what readers are shown of them."""

    name: str  # of its files
    numbers: pd.DataFrame  # all, for the csv
    tables: dict[str, pd.DataFrame]  # title -> what readers are shown, as text; Markdown links in it lead to run pages
    note: str = ""  # what to say under the tables

    @property
    def title(self) -> str:
        """Of the first table."""
        return next(iter(self.tables))

    def show(self, place: int = 0) -> pd.DataFrame:
        """One of the tables for a notebook, without links."""
        return plain(list(self.tables.values())[place]).reset_index(drop=True)

    def write(self, folder: Path) -> None:
        """Write `<name>.csv` with all numbers and `<name>.md` with the tables and the note into figures/<profile>; the latter for
        booktabs as `<name>.tex` too, where that is asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        self.numbers.to_csv(folder / f"{self.name}.csv", index=False, float_format="%.6f")
        for suffix in ("md", *asked_formats(["tex"])):
            heading, table_as, said = FORMS[suffix]
            parts = [
                part for title, table in self.tables.items() for part in (heading.format(said(title)), table_as(table))
            ]
            text = "\n\n".join([*parts, *([said(self.note)] if self.note else [])])
            (folder / f"{self.name}.{suffix}").write_text(f"{text}\n", encoding="utf-8")


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """A table without its links."""
    return table.map(lambda cell: LINK.sub(r"\1", cell) if isinstance(cell, str) else cell)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown without its index: text stays as it is, and columns of numbers stand at the right."""
    cell = lambda text: text.replace("|", r"\|")  # noqa: E731
    text = table.astype(str).rename(columns=str).map(cell).rename(columns=cell)
    sides = ["right" if len(text) and text[c].str.fullmatch(r"[-+\d.,]+").all() else "left" for c in text]
    return text.to_markdown(index=False, disable_numparse=True, colalign=sides)


def latex(text: object) -> str:
    """Text as LaTeX shows it, whatever stands in it."""
    return str(text).translate(TEX)


# What has another meaning there, and what OT1 fonts have other signs for
TEX = str.maketrans(
    {character: f"\\{character}" for character in "%_&#${}"} | {character: f"${character}$" for character in "<>|"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)  # fmt: skip


def _tabular(table: pd.DataFrame) -> str:
    style = plain(table).map(latex).rename(columns=latex).style.hide(axis="index")
    return style.to_latex(hrules=True, environment="longtable" if len(table) > 40 else None)  # rows of a page


FORMS = {"md": ("**{}**", markdown, str), "tex": ("\\paragraph{{{}}}", _tabular, latex)}
"""Format -> a heading, how a table is written, how text is."""

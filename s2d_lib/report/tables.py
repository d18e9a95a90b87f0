"""Tables: a checkpoint a row, accuracy with interval, difference to the reference, and what the route cost."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from s2d_lib.claims import Estimate, bootstrap
from s2d_lib.claims.fair import accuracies, check_together, paired_accuracies, seeds_of
from s2d_lib.errors import StudyError
from s2d_lib.report.decodings import beside_untrained, shared_decodings, with_best
from s2d_lib.report.run_pages import link, markdown
from s2d_lib.report.style import BEST, ROUTE_LABELS, interval, route_label
from s2d_lib.results.bundle import Bundle, route_cost
from s2d_lib.study.page import Table

COSTS = {
    "own_steps": "own steps",
    "all_steps": "all steps",
    "labels": "labeled problems",
    "gradings": "gradings",
    "sampled_sequences": "samples",
    "sampled_tokens": "tokens sampled",
    "trained_tokens": "tokens trained on",
}
PAGE = 40  # rows that fit on one


def table_of(bundle: Bundle, table: Table) -> pd.DataFrame:
    """Numbers of a table, one row a checkpoint.

    Returns:
        `checkpoint`, `route`, `seeds`; for each evaluation set `<set>`, `<set> low`, `<set> high` (95% interval over
        seeds and problems) and, with a reference, `<set> difference` and its interval (NaN in the reference's own
        row); costs as means over seeds; where all rows have several decodings, `<set> at <decoding>` and its interval.
        Untrained models are rows at their best temperature too (see s2d_lib.report.decodings), where the results know it.

    Raises:
        StudyError: When a checkpoint or a seed of it is missing from the results, or what they hold under its name does
            not belong together (s2d_lib.claims.fair.check_together).
    """
    for checkpoint in table.rows:
        if not seeds_of(bundle, checkpoint):
            raise StudyError(
                f"table {table.title!r}: the results hold no run of {checkpoint!r}; make it with `make study`."
            )
    bundle = with_best(bundle)
    rows = beside_untrained(bundle, table.rows)
    check_together(bundle, list(dict.fromkeys([*rows, *filter(None, [table.reference])])))
    return pd.DataFrame(_rows(bundle, table, rows))


def _rows(bundle: Bundle, table: Table, rows: list[str]) -> Iterator[dict]:
    # The short names say no teacher where only one is meant; a table with others has the long ones throughout.
    short = ROUTE_LABELS if set(table.rows) <= set(ROUTE_LABELS) else {}
    labels = {name: short.get(name, route_label(name)) for name in rows}
    decodings = {decoding: bundle.at(decoding) for decoding in shared_decodings(bundle, table.rows)}
    for checkpoint in rows:
        seeds = seeds_of(bundle, checkpoint)
        row: dict = {"checkpoint": checkpoint, "route": labels[checkpoint], "seeds": len(seeds)}
        for name in bundle.sets:
            row |= _columns(name, bootstrap(accuracies(bundle, checkpoint, name).to_numpy()))
            if table.reference == checkpoint:
                row |= dict.fromkeys((f"{name} difference{bound}" for bound in ("", " low", " high")), float("nan"))
            elif table.reference:
                pair = paired_accuracies(bundle, checkpoint, table.reference, name)
                row |= _columns(f"{name} difference", bootstrap(*pair))
        costs = pd.DataFrame([route_cost(bundle, checkpoint, seed) for seed in seeds]).mean()
        row |= {COSTS[name]: round(value) for name, value in costs.items()}
        for decoding, at in decodings.items() if not checkpoint.endswith(BEST) else ():
            for name in bundle.sets:
                row |= _columns(at_decoding(name, decoding), bootstrap(accuracies(at, checkpoint, name).to_numpy()))
        yield row


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name} low": estimate.low, f"{name} high": estimate.high}


def at_decoding(name: str, decoding: str) -> str:
    """The column of an evaluation set at a further decoding."""
    return f"{name} at {decoding}"


def linked(shown: pd.DataFrame, numbers: pd.DataFrame, start: str = "") -> pd.DataFrame:
    """What readers are shown, its routes leading to their runs' pages.

    Args:
        shown: With a column `route`.
        numbers: Names the `checkpoint` of every row.
        start: Leads to the folder of the profile, where it is another one's.
    """
    pairs = zip(shown["route"], numbers["checkpoint"], strict=True)
    return shown.assign(route=[link(label, checkpoint, start) for label, checkpoint in pairs])


def readable(numbers: pd.DataFrame, sets: list[str]) -> pd.DataFrame:
    """The same table for readers: percent with intervals in brackets, costs with thousands separators."""
    out = pd.DataFrame({"route": numbers["route"]})
    for name in sets:
        out[f"{name}, %"] = [interval(*row) for row in numbers[[name, f"{name} low", f"{name} high"]].to_numpy()]
        if f"{name} difference" in numbers:
            columns = [f"{name} difference", f"{name} difference low", f"{name} difference high"]
            out[f"{name}, difference"] = [interval(*row, signed=True) for row in numbers[columns].to_numpy()]
    for name in COSTS.values():
        out[name] = [f"{value:,}" for value in numbers[name]]
    return out


def write_forms(
    numbers: pd.DataFrame,
    shown: dict[str, pd.DataFrame],
    folder: Path,
    name: str,
    note: str,
    links: dict[str, pd.DataFrame] | None = None,
    remarks: dict[str, list[str]] | None = None,
) -> None:
    """Write `<name>.csv` with all numbers, and `<name>.md` and `<name>.tex` with what readers are shown: tables by title;
    `links`: the same with links to run pages, for the md; `remarks`: lists of sentences behind the tables, by their titles.

    A table of more than a page is a longtable in LaTeX; all need booktabs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"**{title}**\n\n{markdown(table)}\n" for title, table in (links or shown).items()]
    lists = [f"**{title}**\n\n" + "".join(f"- {text}\n" for text in texts) for title, texts in (remarks or {}).items()]
    (folder / f"{name}.md").write_text("\n".join([*parts, f"{note}\n", *lists]), encoding="utf-8")
    latex = [_latex(table, title, note) for title, table in shown.items()]
    latex += [_latex_list(title, texts) for title, texts in (remarks or {}).items()]
    (folder / f"{name}.tex").write_text("\n".join(latex), encoding="utf-8")
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")


def _latex(table: pd.DataFrame, title: str, note: str) -> str:
    caption = f"{_tex(title)}{'' if title.endswith('?') else '.'} {_tex(note)}"
    style = table.map(_tex).rename(columns=_tex).style.hide(axis="index")
    if len(table) > PAGE:
        return style.to_latex(hrules=True, environment="longtable", caption=caption)
    return f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{style.to_latex(hrules=True)}\\end{{table}}\n"


def _latex_list(title: str, texts: list[str]) -> str:
    """A list with what Markdown sets as code or stressed set likewise."""
    items = [re.sub(r"`([^`]+)`", r"\\texttt{\1}", re.sub(r"\*([^*]+)\*", r"\\emph{\1}", _tex(text))) for text in texts]
    lines = [f"\\paragraph{{{_tex(title)}}}", "\\begin{itemize}", *(f"\\item {item}" for item in items)]
    return "\n".join([*lines, "\\end{itemize}\n"])


_TEX = {character: f"\\{character}" for character in "%_&#${}"}
_TEX |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
_TEX |= {"->": r"$\rightarrow$", "<": "$<$", ">": "$>$", "|": "$|$"}  # OT1 fonts have other signs there
_SPECIAL = re.compile("|".join(re.escape(word) for word in sorted(_TEX, key=len, reverse=True)))


def _tex(text: object) -> str:
    """Text as LaTeX shows it, whatever stands in it."""
    return _SPECIAL.sub(lambda found: _TEX[found[0]], str(text))

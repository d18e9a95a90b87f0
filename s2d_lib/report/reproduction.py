"""build/report/: the reproduction as a report, a template filled from committed results, as a page and by a browser as PDF."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mistune
import pandas as pd

from s2d_lib.claims import load_claims
from s2d_lib.errors import StudyError
from s2d_lib.report.cards import filled, model_cards, sets_table
from s2d_lib.report.claims import SMALL
from s2d_lib.report.looks import load_report
from s2d_lib.report.tables import contrast_label, interval, plain
from s2d_lib.results.bundle import read_bundle
from s2d_lib.study import load_profile

OF, MAPS, PAPER = ("micro-full", "micro-llama"), ("micro", "map"), "qwen3"
"""Profiles: whose results are reported, of both families; of the map; and the paper's own setting, of the first family."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-pdf-header-footer")


def read_tables(text: str) -> dict[str, pd.DataFrame]:
    """The tables of Markdown by the bold line above each, as text and without links to runs."""
    found, title = {}, ""
    for block in text.split("\n\n"):
        if block.startswith("|"):
            head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
            found[title] = plain(pd.DataFrame(rows, columns=head))
        title = block.strip("*\n")
    return found


def report_text(root: Path) -> str:
    """The report in Markdown, with links and figures as seen from build/report/; a StudyError where results are missing."""
    profiles, figures = {name: load_profile(name, root=root) for name in (*OF, *MAPS, PAPER)}, root / "figures"
    asked = (f"{OF[0]}/claims", f"{OF[0]}/headline", "micro/ends", *(f"{name}/cost" for name in OF))
    try:
        numbers = pd.read_csv(figures / OF[0] / "claims.csv").query("difference.notna()")
        cells = json.loads((root / "notebooks" / "02_the_map.ipynb").read_text(encoding="utf-8"))["cells"]
        pages = {name: read_tables((figures / f"{name}.md").read_text(encoding="utf-8")) for name in asked}
        runs = {name: pd.read_csv(figures / name / "results" / "runs.csv") for name in MAPS}
    except FileNotFoundError as error:
        raise StudyError(f"the report needs {error.filename}: make it with `make figures`.") from None
    said = [interval(*row, 1, signed=True) for row in numbers[["difference", "low", "high"]].to_numpy()]
    compared = numbers[["better", "than", "set"]].to_numpy().tolist()
    numbers = numbers.assign(said=said, pair=[contrast_label(*pair) for *pair, _ in compared])
    marked = read_tables("\n\n".join("".join(cell["source"]) for cell in cells))["The predictions, marked."]
    what = {
        "profiles": profiles,
        "pages": pages,
        "runs": runs,
        "claims": load_claims(root),
        "models": model_cards(root),
    }
    what |= {"numbers": numbers.assign(slack=numbers["low"] + numbers["margin"]), "sets": sets_table(profiles[OF[0]])}
    what |= {"ahead": {tuple(sides): words for sides, words in zip(compared, said, strict=True)}}
    what |= {"marked": marked.set_index("prediction")["came out"], "names": load_report(root).stages}
    what |= {"records": list(read_bundle(figures / OF[0] / "results").records.values())}
    text = filled("report.md", verdicts=load_report(root).notes["verdicts"].format(SMALL), **what)
    return re.sub(r"(?<=\d) (\[[-+.\d]+,) ", "\xa0\\1\xa0", text)  # with spaces that keep an interval in one line


def write_report(root: Path) -> Iterator[str]:
    """Write build/report/; a line on what was written, or on what was left out and why."""
    page, body = root / "build" / "report" / "report.html", mistune.html(report_text(root))
    page.parent.mkdir(parents=True, exist_ok=True)

    def inside(image: re.Match) -> str:
        return f'src="data:image/png;base64,{base64.b64encode((page.parent / image[1]).read_bytes()).decode()}"'

    page.write_text(filled("report.html", body=re.sub(r'src="([^"]+\.png)"', inside, body)), encoding="utf-8")
    yield str(page)
    yield print_pdf(page)


def print_pdf(page: Path) -> str:
    """Print a page beside itself by a headless Chromium; what was written, or why it was not."""
    pdf, browser = page.with_suffix(".pdf"), next(filter(None, map(shutil.which, BROWSERS)), None)
    pdf.unlink(missing_ok=True)
    if browser is None:
        return f"{pdf.name} was left out, as there is no Chromium ({', '.join(BROWSERS)}): print {page.name} yourself."
    try:
        command = [browser, *QUIET, f"--print-to-pdf={pdf}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{pdf.name} was left out, as {browser} failed ({error}): print {page.name} yourself."
    return str(pdf)

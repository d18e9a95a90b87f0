"""The site: its pages and links as they stand in the repository, and as a browser shows what was built."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1400, 400)
QUIET = ["--no-sandbox", *(f"--disable-{it}" for it in ("gpu", "quic", "background-networking", "component-update"))]
LOOK = """() => ({
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    ids: [...document.querySelectorAll("[id]")].map(e => e.id),
    images: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    plots: [...document.querySelectorAll("object")].map(o => o.data),
    errors: [...document.querySelectorAll(".problematic, .system-message, merror")].map(e => e.textContent),
    tables: [...document.querySelectorAll("p")].map(e => e.textContent).filter(text => text.startsWith("|")),
    text: document.body.innerText.length,
})"""
WIDE = """() => document.documentElement.scrollWidth - window.innerWidth"""


def shown(root: Path) -> list[Path]:
    """The committed pages that the site is made of."""
    settings = runpy.run_path(str(root / "site" / "conf.py"))
    return sorted({path for pattern in settings["include_patterns"] for path in root.glob(pattern)})


def texts(page: Path) -> list[str]:
    """What a page says in Markdown."""
    if page.suffix == ".md":
        return [page.read_text()]
    return ["".join(c["source"]) for c in json.loads(page.read_text())["cells"] if c["cell_type"] == "markdown"]


def test_the_contents_name_every_notebook_and_only_pages_that_exist(root):
    named = [name for names in runpy.run_path(str(root / "site" / "conf.py"))["contents"].values() for name in names]
    assert len(named) == len(set(named))
    for name in named:
        assert (root / f"{name}.md").exists() or (root / f"{name}.ipynb").exists(), name
    assert {f"notebooks/{p.stem}" for p in root.glob("notebooks/*.ipynb")} < set(named)


def test_every_relative_link_of_a_shown_page_leads_to_a_file(root):
    pages = shown(root)
    assert root / "README.md" in pages
    for page in pages:
        for link in (link for text in texts(page) for link in re.findall(r"\]\(([^)#\s]+)", text)):
            assert re.match(r"https?:", link) or (page.parent / link).is_file(), f"{page.relative_to(root)}: {link}"


def test_a_site_without_executed_notebooks_is_refused(root, tmp_path):
    unexecuted = runpy.run_path(str(root / "site" / "pages.py"))["unexecuted"]
    assert not unexecuted(root)
    (tmp_path / "notebooks").mkdir()
    for name in ("31_opd", "90_headline"):  # a stage notebook may be as it is
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["1"], "outputs": []}]}))
    assert re.fullmatch(
        r"notebooks/90_headline\.ipynb shows no results, [^.]*`make figures` first\.", unexecuted(tmp_path)
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name, reason="the site's packages are not installed (`make site` does it)")
    root, out = Path(__file__).parents[1], tmp_path_factory.mktemp("site")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-c", "site", "-d"]
    command = [sys.executable, *words, out / "tree", ".", out / "html"]
    subprocess.run(command, cwd=root, check=True, env={**os.environ, "PYTHONPATH": str(root)})
    return out / "html"


@pytest.mark.slow
def test_a_browser_shows_every_page_whole(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (`make site` does it)")
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    found, faults = {}, []
    with playwright.sync_playwright() as run:
        page = run.chromium.launch(executable_path=BROWSER, args=QUIET).new_page()
        page.on("console", lambda said: faults.append((page.url, said.text)) if said.type == "error" else None)
        page.on("pageerror", lambda error: faults.append((page.url, str(error))))
        page.on("request", lambda asked: faults.append((page.url, asked.url)) if asked.url.startswith("http") else None)
        page.on("requestfailed", lambda asked: faults.append((page.url, asked.url)))
        for path in sorted(site.rglob("*.html")):
            page.set_viewport_size({"width": WIDTHS[0], "height": 900})
            page.goto(path.as_uri())
            found[path] = page.evaluate(LOOK)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                if (wide := page.evaluate(WIDE)) > 0:
                    faults.append((path.name, f"{wide} pixels wider than {width}"))
    assert not faults
    root = Path(__file__).parents[1]
    assert {site / page.relative_to(root).with_suffix(".html") for page in shown(root)} <= set(found)
    for path, content in found.items():
        assert content["text"] > 100, path
        assert not content["images"] + content["errors"] + content["tables"], (path, content)
        for plot in (Path(unquote(urlsplit(address).path)) for address in content["plots"]):
            drawn = re.findall(r'xlink:href="([^"#][^"]*)"', plot.read_text())
            content["links"] += [urljoin(plot.as_uri(), link) for link in drawn if not link.startswith("data:")]
            assert drawn, plot
        for link in content["links"]:
            address, anchor = urldefrag(link)
            target = Path(unquote(urlsplit(address).path))
            assert not address.startswith("file:") or target.is_file(), (path, link)
            assert not anchor or target not in found or anchor in found[target]["ids"], (path, link)

"""What the site shows otherwise than the repository does, as a Sphinx extension.

Plots whose points are links are shown as such and lead to pages of the site; a linked source file is a page; formulas are MathML;
every profile's tables and runs are listed. Sphinx is imported where it is called, so that tests can read this without it.
"""

import json
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
LANGUAGES = {".py": "python", ".yaml": "yaml", ".csv": "text"}
KINDS = {"Tables": "*.md", "Cells": "cells/*.md", "Figures": "*.svg", "Runs": "runs/*.md"}
LINK = re.compile(r'(xlink:href="[^"#]+)\.md')


def unexecuted(root: Path = ROOT) -> str:
    """Which analysis notebook shows nothing, in a sentence; stage notebooks (20 to 50) are committed without outputs."""
    for path in sorted(root.glob("notebooks/*.ipynb")):
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        if path.name[0] not in "2345" and not any(cell["outputs"] for cell in code):
            return f"notebooks/{path.name} shows no results, since it has not been executed: run `make figures` first."
    return ""


def linked(image: Path) -> Path | None:
    """The drawing beside an image, where something in it leads to a page."""
    drawing = image.with_suffix(".svg")
    return drawing if drawing.exists() and LINK.search(drawing.read_text()) else None


def embedded(drawing: Path, page: str, text: str) -> str:
    """HTML that shows a drawing whose links work, no smaller than can be read."""
    address = "../" * page.count("/") + drawing.relative_to(ROOT).as_posix()
    return (
        f'<div class="plot"><object type="image/svg+xml" data="{address}" aria-label="{escape(text)}"></object></div>'
    )


def notebook(page: str, source: str) -> str:
    """A notebook whose plots are the drawings that its cells saved, where it can be told which those are."""
    content, values, shown = json.loads(source), {}, set()
    for cell in content["cells"]:
        code = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []):
            values = dict(re.findall(r'^(\w+) = "([^"]*)"', code, re.MULTILINE))
        elif code.startswith(("import ", "from ")) and cell["cell_type"] == "code":
            cell["metadata"]["tags"] = ["hide-input"]  # one click away
        plots = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        found = []
        for quoted, variable in re.findall(r'save_figure\(\w+, folder, f?(?:"([^"]+)"|(\w+))\)', code):
            name = quoted or f"{{{variable}}}"
            for field in re.findall(r"{(\w+)}", name):
                name = name.replace(f"{{{field}}}", values.get(field, "*"))
            pattern = f"{name.replace('**', '*')}.png"
            found += sorted({*(ROOT / "figures" / values.get("profile", "")).glob(pattern)} - shown)
        shown.update(found)
        drawings = [linked(path) for path in found]
        if len(drawings) == len(plots) and all(drawings):
            for output, drawing in zip(plots, drawings, strict=True):
                output["data"] = {"text/html": embedded(drawing, page, drawing.stem)}
    return json.dumps(content)


def listing() -> str:
    """Every profile's tables, runs and drawings with links."""
    text = []
    for folder in sorted(path for path in (ROOT / "figures").iterdir() if any(path.rglob("*.md"))):
        text.append(f"## {folder.name}\n")
        for title, pattern in KINDS.items():
            paths = [p for p in sorted(folder.glob(pattern)) if p.suffix == ".md" or linked(p)]
            pages = [(path.stem, path.relative_to(ROOT)) for path in paths]
            links = [f"[{name}](/{p})" if p.suffix == ".md" else f'<a href="../{p}">{name}</a>' for name, p in pages]
            text += [f"{title}: {' · '.join(links)}\n"] if links else []
    return "\n".join(text)


def read(app, page: str, source: list[str]) -> None:
    """Change a page's source before it is parsed."""
    if page.startswith("notebooks/"):
        source[0] = notebook(page, source[0])
        return

    def image(found: re.Match) -> str:
        drawing = linked((ROOT / page).parent / found[2])
        return embedded(drawing.resolve(), page, found[1]) if drawing else found[0]

    text = re.sub(r"^!\[([^\]]*)\]\(([^)]+\.png)\)$", image, source[0], flags=re.MULTILINE)
    if page.startswith("figures/"):  # a table's bold titles are headings here, and every page has one
        text = re.sub(r"^\*\*(.+)\*\*$", r"## \1", text, flags=re.MULTILINE)
        text = text if text.startswith("# ") else text.replace("## ", "# ", 1)
        text = text if text.startswith("# ") else f"# {page.removeprefix('figures/')}\n\n{text}"
    elif page == "site/results":
        text += listing()
    elif page == app.config.root_doc:
        for caption, pages in app.config.contents.items():
            text += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}\n", *pages, "```\n"])
    source[0] = text


def link_files(app, doctree) -> None:
    """A link to a source file leads to a page that shows it; files of other kinds are downloads."""
    from docutils import nodes
    from sphinx.addnodes import download_reference

    for node in list(doctree.findall(download_reference)):
        path = (ROOT / app.env.docname).parent.joinpath(node["reftarget"]).resolve()
        if path.suffix in LANGUAGES:
            name = path.relative_to(ROOT).as_posix()
            app.env.linked_files = {*getattr(app.env, "linked_files", ()), name}
            address = app.builder.get_relative_uri(app.env.docname, name)
            node.replace_self(nodes.reference("", "", *node.children, refuri=address, internal=True))


def file_pages(app):
    """The pages of linked source files."""
    for name in sorted(getattr(app.env, "linked_files", ())):
        shown = app.builder.highlighter.highlight_block((ROOT / name).read_text(), LANGUAGES[Path(name).suffix])
        yield name, {"title": name, "body": f"<h1>{name}</h1>{shown}"}, "page.html"


def skip(app, kind: str, name: str, found, skipped: bool, options) -> bool | None:
    """A named tuple's fields stand in its signature, with their types."""
    return type(found).__name__ == "_tuplegetter" or None


def math(translator, node) -> None:
    """A formula as MathML, which browsers draw themselves."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    plain = re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", node.astext())  # MathML's brackets grow by themselves
    translator.body.append(tex2mathml(plain, as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def refuse(app) -> None:
    """No site without results."""
    from sphinx.errors import SphinxError

    if sentence := unexecuted():
        raise SphinxError(sentence)


def finish(app, error) -> None:
    """The front page's other name, and the drawings, their links leading to the site's pages."""
    if error:
        return
    (app.outdir / "index.html").write_text((app.outdir / "README.html").read_text())
    for drawing in filter(linked, (ROOT / "figures").rglob("*.svg")):
        place = app.outdir / drawing.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = LINK.sub(r"\1.html", drawing.read_text())
        place.write_text(text.replace('target="_blank"', 'target="_top"'))


def setup(app) -> dict:
    """Sphinx's entry."""
    app.add_config_value("contents", {}, "env")
    app.add_html_math_renderer("mathml", (math, None), (math, None))
    app.connect("builder-inited", refuse)
    app.connect("source-read", read, priority=100)
    app.connect("doctree-read", link_files, priority=100)  # before Sphinx copies downloads
    app.connect("html-collect-pages", file_pages)
    app.connect("autodoc-skip-member", skip)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": False, "parallel_write_safe": True}

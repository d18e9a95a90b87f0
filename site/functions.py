"""docs/functions.md: what reference.md shows, as one page of signatures. `make site` writes it."""

import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "functions.md"
HEAD = """# Public functions

What works outside the study too, with its signature; shapes, units and errors stand in the docstrings, which the site's
reference shows whole (`make site` builds it, and writes this page). Three scripts of some thirty lines use them with models and
data of one's own: the [loss in a bare loop](../examples/loss_in_a_loop.py), [OPD by the trainer](../examples/opd.py), the
[grader as TRL's reward](../examples/grpo_with_our_grader.py)."""


def page() -> str:
    """Every room that reference.md shows: names, signatures with types as one reads them, first sentences."""
    parts, shown = [HEAD], (ROOT / "site" / "reference.md").read_text(encoding="utf-8")
    for room, names in re.findall(r"automodule:: (\S+)\n +:members: (.*)", shown):
        parts.append(f"## `{room}`\n")
        for name in names.split(", "):
            one = getattr(importlib.import_module(room), name)
            signature = str(inspect.signature(one, eval_str=True)).removesuffix(" -> None")
            plain = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", signature)
            says = " ".join(re.split(r"(?<=\.)\s|\n\n", inspect.getdoc(one))[0].split())
            parts[-1] += f"\n- **`{name}`**`{plain}`\n  {says}"
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Sphinx's settings: the site is the repository's own pages, at the addresses and with the links that they have there.

What is changed on the way stands in pages.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

_NOTEBOOKS = {
    "The story": """02_the_map 03_temperature 10_base_models 90_headline 91_allocation 92_bridge 93_student_rl 94_placement
        95_families 98_self_distillation 99_crossing 97_claims 70_language_model 71_real_pair 80_published_tables""",
    "The stages": """00_the_principle 01_the_loss 20_sparse_rl 21_teacher_sft 30_forward_kl_warmup 31_opd
        32_teacher_sample_sft 40_self_distillation 45_any_stage 50_evaluate 60_planner""",
}
contents = {
    **{caption: [f"notebooks/{name}" for name in names.split()] for caption, names in _NOTEBOOKS.items()},
    "Use it": ["docs/guide", "docs/scale", "docs/how_opd_works", "docs/how_to_add_a_method", "CONTRIBUTING"],
    "Look it up": [
        *("site/results", "figures/map/methods", "docs/cards/problems", "docs/cards/models", "docs/functions"),
        "site/reference",
    ],
}
"""Caption -> pages of the sidebar; README is the front page, and tables and plots lead to the pages of runs."""

project = "s2d"
html_title = "s2d: sparse to dense"
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/cards/*.md",
    "notebooks/*.ipynb",
    "figures/**/*.md",
    "site/*.md",
]
exclude_patterns = ["build", "runs*", ".*", "tests", "s2d_lib", "params", "benchmarks", "executors", "**/results"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "pages"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_math_renderer = "mathml"  # pages.py's: needs no script from elsewhere

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables too
nb_code_prompt_show = "Imports"
nb_code_prompt_hide = "Imports"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "myst.xref_missing", "toc.not_included"]  # tests/test_site.py follows every link

default_role = "code"  # docstrings quote code as Markdown does
napoleon_use_ivar = True
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autodoc_typehints_format = "short"
add_module_names = False

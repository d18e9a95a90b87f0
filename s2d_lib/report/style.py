"""One plot style for the whole project: colours, labels, and figures whose bytes can be reproduced.

Every notebook calls `use_style()` once and saves with `save_figure`, so that a figure redrawn from the same numbers is
the same file. Colours are the colour-blind-safe palette of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/) plus
grey; a route keeps its colour, marker and label in every figure. No torch here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe-Ito; "olive" is its yellow darkened until a thin line can be seen on white.
BLACK, GREY, ORANGE, SKY, GREEN = "#000000", "#999999", "#E69F00", "#56B4E9", "#009E73"
OLIVE, BLUE, VERMILLION, PURPLE = "#B5A800", "#0072B2", "#D55E00", "#CC79A7"
WINE, BROWN = "#882255", "#7A4B1E"  # for more routes than Okabe and Ito have colours
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
"""The colour cycle for series that are no route."""

SEQUENTIAL = "cividis"
"""The colour map for ordered quantities (perceptually uniform, colour-blind safe)."""

ROUTE_COLORS = {
    "student": GREY,
    "student.grpo": VERMILLION,
    "student.bridge.raw_teacher": SKY,
    "student.warm.raw_teacher": WINE,
    "student.warm.rl_teacher": ORANGE,
    "student.forward_kl_only.rl_teacher": BROWN,
    "student.bridge.rl_teacher": BLUE,
    "student.opd_only.rl_teacher": PURPLE,
    "student.teacher_sample_sft.rl_teacher": GREEN,
    "teacher": OLIVE,
    "teacher.rl": BLACK,
}
"""Checkpoint name -> colour (hex), the same in every figure."""

ROUTE_LABELS = {
    "student": "base student",
    "student.grpo": "direct GRPO",
    "student.bridge.raw_teacher": "bridge, raw teacher",
    "student.warm.raw_teacher": "forward-KL warmup, raw teacher",
    "student.warm.rl_teacher": "forward-KL warmup alone",
    "student.forward_kl_only.rl_teacher": "forward KL only",
    "student.bridge.rl_teacher": "bridge, RL teacher",
    "student.opd_only.rl_teacher": "OPD only",
    "student.teacher_sample_sft.rl_teacher": "teacher-sample SFT",
    "teacher": "raw teacher",
    "teacher.rl": "RL teacher",
}
"""Checkpoint name -> what a reader sees."""

ROUTE_MARKERS = dict(zip(ROUTE_COLORS, "oXvhspDP^<*", strict=True))
"""Checkpoint name -> marker, so that no figure depends on colour alone."""

FORMATS = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}
"""File format -> metadata; None removes what would differ between two drawings (times, library versions)."""

_RC = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so the same on every machine
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "figure.figsize": (6.5, 4.0),  # inches: a text column
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "savefig.bbox": None,  # the page keeps the size asked for
    "savefig.facecolor": "white",
    "image.cmap": SEQUENTIAL,
    "pdf.fonttype": 42,  # embed TrueType: text stays text in the PDF
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # glyphs as outlines: looks the same without the font
    "svg.hashsalt": "s2d",  # ids in the SVG are derived from this instead of a random number
}


def use_style() -> None:
    """Set matplotlib's rcParams for this process (no backend is chosen, nothing is drawn)."""
    mpl.rcdefaults()
    mpl.rcParams.update({**_RC, "axes.prop_cycle": mpl.cycler(color=PALETTE)})


def save_figure(fig: "Figure", directory: str | Path, name: str) -> list[Path]:
    """Write `directory/name.{png,pdf,svg}` (png at 200 dots per inch) and return the paths.

    Times and library versions are left out of the files, so the same figure is written as the same bytes. The layout
    is computed once and then kept, so save a figure when it is complete.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.{suffix}" for suffix in FORMATS]
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for path, metadata in zip(paths, FORMATS.values(), strict=True):
        fig.savefig(path, metadata=metadata)
    return paths

"""One plot style for the whole project, and figures whose bytes can be reproduced. Knows neither torch nor pandas.

Every notebook calls `use_style()` once and saves with `save_figure`, so that a figure redrawn from the same numbers is
the same file. Colours are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/), grey and two more.
"""

import io
import os
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from PIL import Image

from s2d_lib.errors import StudyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe-Ito; "olive" is its yellow darkened until a thin line can be seen on white.
BLACK, GREY, ORANGE, SKY, GREEN = "#000000", "#999999", "#E69F00", "#56B4E9", "#009E73"
OLIVE, BLUE, VERMILLION, PURPLE = "#B5A800", "#0072B2", "#D55E00", "#CC79A7"
WINE, BROWN = "#882255", "#7A4B1E"  # for more routes than Okabe and Ito have colours
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
"""The colour cycle for series that are no route."""
FORMATS = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}
"""File format -> metadata; None removes what would differ between two drawings (times, library versions)."""
ASKED = "S2D_FORMATS"  # environment variable, of `make figures FORMATS=png,svg,pdf,tex,html`

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": [
        "DejaVu Sans",
        "Verdana",
    ],  # shipped with matplotlib, the same on every machine; as wide, in browsers
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
    "savefig.dpi": 150,
    "savefig.bbox": None,  # the page keeps the size asked for
    "savefig.facecolor": "white",
    "image.cmap": "cividis",  # perceptually uniform, colour-blind safe
    "pdf.fonttype": 42,  # embed TrueType: text stays text in the PDF
    "svg.fonttype": "none",  # text stays text: half the size of outlines, and can be searched
    "svg.hashsalt": "s2d",  # ids in the SVG are derived from this instead of a random number
}


def use_style() -> None:
    """Set matplotlib's rcParams for this process (no backend is chosen, nothing is drawn)."""
    mpl.rcdefaults()
    mpl.rcParams.update({**_RC, "axes.prop_cycle": mpl.cycler(color=PALETTE)})


def asked_formats(known: Collection[str], asked: Sequence[str] | None = None) -> list[str]:
    """The known ones of the formats that are asked for, here or by the environment; by default png and svg.

    Raises:
        StudyError: One is asked for that nothing is ever written as.
    """
    asked = asked or os.environ.get(ASKED, "png,svg").split(",")
    if unknown := [name for name in asked if name not in (*FORMATS, "tex", "html")]:
        raise StudyError(f"nothing is written as {unknown[0]!r}: ask for some of {', '.join(FORMATS)}, tex and html.")
    return [name for name in known if name in asked]


def save_figure(fig: "Figure", directory: str | Path, name: str, formats: Sequence[str] | None = None) -> list[Path]:
    """Write `directory/name.<format>` in the formats that are asked for (`asked_formats`), and return the paths.

    The same figure is written as the same bytes, PNG in a palette of 256 colours, SVG only where something in it is a link. The
    layout is computed once and then kept, so save a complete figure.
    """
    asked = asked_formats(FORMATS, formats)
    if not any(artist.get_url() for artist in fig.findobj()):
        asked = [suffix for suffix in asked if suffix != "svg"]
    paths = [Path(directory) / f"{name}.{suffix}" for suffix in asked]
    Path(directory).mkdir(parents=True, exist_ok=True)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for path in paths:
        if path.suffix != ".png":
            fig.savefig(path, metadata=FORMATS[path.suffix[1:]])
            continue
        fig.savefig(drawn := io.BytesIO(), metadata=FORMATS["png"])
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return paths


def entitle(figure: "Figure", title: str) -> None:
    """A figure's title at its left edge, in as many lines as its width asks for (nine bold characters in an inch)."""
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())), fontweight="bold", x=0.01, ha="left")

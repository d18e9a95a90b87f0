"""One plot style for the whole project, and figures whose bytes can be reproduced. Knows neither torch nor pandas.

Every notebook calls `use_style()` once and saves with `save_figure`, so that a figure redrawn from the same numbers is
the same file. Colours are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/), grey and two more.
"""

import io
import os
import re
import textwrap
from collections.abc import Collection
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
LONG = re.compile(r"(?<=\d\.\d\d)\d+")  # of a number
ASKED = "S2D_FORMATS"  # environment variable, of `make figures FORMATS=png,svg,pdf,tex`


def use_style() -> None:
    """Set matplotlib's rcParams for this process (no backend is chosen, nothing is drawn)."""
    mpl.rcdefaults()
    mpl.style.use(Path(__file__).with_name("s2d.mplstyle"))


def asked_formats(known: Collection[str]) -> list[str]:
    """The known ones of the formats that the environment asks for, by default png and svg; a StudyError where one is asked for
    that nothing is ever written as."""
    asked = os.environ.get(ASKED, "png,svg").split(",")
    if unknown := [name for name in asked if name not in (*FORMATS, "tex")]:
        raise StudyError(f"nothing is written as {unknown[0]!r}: ask for some of {', '.join(FORMATS)} and tex.")
    return [name for name in known if name in asked]


def save_figure(fig: "Figure", directory: str | Path, name: str) -> list[Path]:
    """Write `directory/name.<format>` in the formats that are asked for (`asked_formats`), and return the paths.

    The same figure is written as the same bytes: PNG in a palette of 256 colours; SVG only where something in it is a link, with
    hundredths of a point and without indents, half as long. The layout is computed once and then kept, so save a complete figure.
    """
    linked, directory = any(artist.get_url() for artist in fig.findobj()), Path(directory)
    paths = [directory / f"{name}.{suffix}" for suffix in asked_formats(FORMATS) if linked or suffix != "svg"]
    directory.mkdir(parents=True, exist_ok=True)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for path in paths:
        suffix = path.suffix[1:]
        fig.savefig(drawn := io.BytesIO(), format=suffix, metadata=FORMATS[suffix])
        if suffix == "png":
            Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        elif suffix == "svg":
            text = re.sub(r"\n +", "\n", drawn.getvalue().decode())
            path.write_text(re.sub(r"<(?!a )[^>]*>", lambda tag: LONG.sub("", tag[0]), text), encoding="utf-8")
        else:
            path.write_bytes(drawn.getvalue())
    return paths


def entitle(figure: "Figure", title: str) -> None:
    """A figure's title at its left edge, in as many lines as its width asks for (nine bold characters in an inch)."""
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())), fontweight="bold", x=0.01, ha="left")

"""One plot style for the whole project: colours, labels, and figures whose bytes can be reproduced.

Every notebook calls `use_style()` once and saves with `save_figure`, so that a figure redrawn from the same numbers is
the same file. Colours are the colour-blind-safe palette of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/) plus
grey; a route keeps its colour, marker and label in every figure. No torch here.
"""

import textwrap
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

_TRANSFERS = {
    "bridge": "bridge",
    "opd_only": "OPD only",
    "teacher_sample_sft": "teacher-sample SFT",
    "warm": "forward-KL warmup",
    "forward_kl_only": "forward KL only",
    "opd_first": "OPD as long as the warmup",
    "opd_restarted": "OPD begun anew",
    "seq_kd": "sequence-level SFT",
    "gold": "GOLD",
}
_SIZES = ("small_teacher", "teacher", "large_teacher", "split_teacher")
_TEACHERS = {
    **{f"{kind}_{size}": f"{word} {size.replace('_', ' ')}" for size in _SIZES
       for kind, word in (("raw", "raw"), ("sft", "SFT"), ("rl", "RL"))},
    "rl_same_size": "same-size RL teacher",
    "split_teacher": "RL split teacher",
    "sft_own_teacher": "teacher after SFT on its own right answers",
    "sdpo_teacher": "SDPO teacher",
    "srpo_teacher": "SRPO teacher",
}  # fmt: skip
_ENDS = {
    "grpo": "GRPO on all labels",
    "srpo": "SRPO on all labels",
    "grpo_2H": "GRPO on 2H",
    "replay_1H": "replay of 1H",
    "topk_tail": "top-k estimator",
    "sampled_token": "sampled-token estimator",
}
# Routes without a colour of their own: one for what is done to the student (darker with GRPO on fresh problems after it,
# lighter with a replay), one for each size of teacher; the marker says who teaches.
_TRANSFER_COLORS = {
    "bridge": {"": BLUE, "grpo": "#003B5C", "srpo": "#4B2E83", "grpo_2H": "#003B5C", "replay_1H": "#80B8D8"},
    "opd_only": {"": PURPLE, "grpo_2H": "#7A3A60"},
    "opd_first": {"": "#E3B5CF"},
    "opd_restarted": {"": "#5E3C99"},
    "teacher_sample_sft": {"": GREEN, "grpo_2H": "#00503A"},
    "warm": {"": ORANGE},
    "forward_kl_only": {"": BROWN},
    "seq_kd": {"": "#00503A"},
    "gold": {"": PURPLE},
}
_TEACHER_MARKERS = dict(zip(
    ["sft_teacher", "raw_large_teacher", "sft_large_teacher", "rl_large_teacher", "rl_same_size",
     "rl_teacher_1H", "rl_large_teacher_1H", "sft_teacher_1H", "sft_large_teacher_1H", "sdpo_teacher", "srpo_teacher",
     "sft_own_teacher", "rl_small_teacher", "split_teacher", "rl_split_teacher", "raw_split_teacher"],
    [*"od8hX<>p*^P", "1", "H", "2", "2", "3"], strict=True,
))  # fmt: skip
# Paper B: label, colour and marker; what is done to one method keeps its colour.
_SELF_DISTILLATION = {
    "student.sdpo": ("SDPO", PURPLE, "D"),
    "student.sdpo.failed_only": ("SDPO, failed samples only", PURPLE, "v"),
    "student.sdpo.correct_only": ("SDPO, correct samples only", PURPLE, "^"),
    "student.srpo": ("SRPO", WINE, "D"),
    "student.srpo.no_dw": ("SRPO without entropy weights", WINE, "v"),
    "student.advantage_mix": ("advantage mix", GREEN, "D"),
}
_END_MARKERS = {"grpo": "P", "srpo": "P", "topk_tail": "d", "sampled_token": "H"}


BEST = "@best"
"""Ends the name of a base model at its best temperature (see s2d_lib.report.decodings)."""


def interval(mean: float, low: float, high: float, signed: bool = False) -> str:
    """A share with its interval as percent; a row that has none is the reference."""
    if mean != mean:
        return "reference"
    sign = "+" if signed else ""
    return f"{100 * mean:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def route_label(checkpoint: str) -> str:
    """What a reader sees where routes from several teachers stand side by side: `bridge, RL teacher (1H), GRPO on 2H`.

    Names that the study's pattern (student.<transfer>.<teacher>[_1H][.<Stage 3>]) does not cover are looked up in
    ROUTE_LABELS, or shown as they are.
    """
    if checkpoint.endswith(BEST):
        return f"{route_label(checkpoint.removesuffix(BEST))}, at its best temperature"
    if checkpoint in _SELF_DISTILLATION:
        return _SELF_DISTILLATION[checkpoint][0]
    match checkpoint.split("."):
        case ["student", transfer, source, *end] if transfer in _TRANSFERS:
            return ", ".join([_TRANSFERS[transfer], _teacher_label(source), *(_ENDS.get(e, e) for e in end)])
        case ["student", "grpo_2H"]:
            return "cold GRPO on 2H"
        case ["outside"]:
            return "outside model"
        case [size, *end] if size in _SIZES and len(end) < 2:
            return _teacher_label(_source(checkpoint))
    return ROUTE_LABELS.get(checkpoint, checkpoint)


def _teacher_label(source: str) -> str:
    teacher = source.removesuffix("_1H")
    return _TEACHERS.get(teacher, teacher) + (" (1H)" if source.endswith("_1H") else "")


def _source(checkpoint: str) -> str:
    """A teacher's own checkpoint as routes from it name it: `teacher.rl_1H` is their `rl_teacher_1H`."""
    size, _, recipe = checkpoint.partition(".")
    half = "_1H" if recipe.endswith("_1H") else ""
    return f"{recipe.removesuffix('_1H') or 'raw'}_{size}{half}"


def route_look(checkpoint: str) -> tuple[str, str]:
    """Colour (hex) and marker of a checkpoint; no two of the study's share both."""
    checkpoint = checkpoint.removesuffix(BEST)
    if checkpoint in ROUTE_COLORS:
        return ROUTE_COLORS[checkpoint], ROUTE_MARKERS[checkpoint]
    if checkpoint in _SELF_DISTILLATION:
        return _SELF_DISTILLATION[checkpoint][1:]
    match checkpoint.split("."):
        case ["student", transfer, source, *end] if transfer in _TRANSFER_COLORS:
            last = end[-1] if end else ""
            shades = _TRANSFER_COLORS[transfer]
            if source.startswith("raw_") and not end:  # as from the smaller raw teacher
                shades = {"": ROUTE_COLORS.get(f"student.{transfer}.raw_teacher", shades[""])}
            return shades.get(last, shades[""]), _END_MARKERS.get(last) or _TEACHER_MARKERS.get(source, "o")
        case ["student", *_]:
            return VERMILLION, "o"
        case [size, *_] if size in _SIZES:
            colors = {"teacher": BLACK, "large_teacher": BROWN, "small_teacher": OLIVE, "split_teacher": GREY}
            return colors[size], _TEACHER_MARKERS.get(_source(checkpoint), "o")
        case ["outside"]:
            return WINE, "o"
    return BLACK, "o"


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


CHARACTERS = 9.0
"""Of a bold title, in an inch."""


def entitle(figure: "Figure", title: str) -> None:
    """A figure's title at its left edge, in as many lines as its width asks for."""
    figure.suptitle(textwrap.fill(title, int(CHARACTERS * figure.get_figwidth())), fontweight="bold", x=0.01, ha="left")

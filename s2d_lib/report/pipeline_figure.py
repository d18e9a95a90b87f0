"""The pipeline as a picture (Figure 1): what the deployed student is made from, and what flows where.

Boxes and arrows are the ancestry in study.yaml of the checkpoints that are drawn. Weights go from left to right, one line a
model; labels come in from above, a grade an answer (sparse); a teacher's distributions come down to whom it teaches, one a
token (dense).
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from s2d_lib.report.route_map import learns_from_labels, lines_of, role_of, stage_name
from s2d_lib.report.style import BLACK, GREEN, PURPLE, route_label, route_look, use_style
from s2d_lib.study.page import Study, rollouts_of

BRIDGED = "student.bridge.rl_teacher_1H.grpo_2H"
DIRECT = "student.grpo"

# Inches
WIDTH, COLUMN = 6.5, 1.3
BOX, CHIP = (1.08, 0.62), (0.74, 0.24)
LANE, CHIPS, HEADING, LEGEND = 0.88, 0.46, 0.34, 0.45

FLOWS = {
    "weights": {"color": BLACK, "linewidth": 1.2, "linestyle": "-"},
    "labels: a grade an answer (sparse)": {"color": GREEN, "linewidth": 1.4, "linestyle": (0, (2, 1.5))},
    "teacher's distributions: one a token (dense)": {"color": PURPLE, "linewidth": 3.0, "linestyle": "-"},
    "teacher's answers, as text": {"color": PURPLE, "linewidth": 1.4, "linestyle": "-"},
}
"""What flows -> how its arrow looks; width and dashes tell them apart without colour."""
WEIGHTS, LABELS, DISTRIBUTIONS, SAMPLES = FLOWS


@dataclass(frozen=True)
class Box:
    """Where a checkpoint stands: the centre of its box, in inches."""

    checkpoint: str
    x: float
    y: float


def pipeline_figure(study: Study, bridged: str = BRIDGED, direct: str = DIRECT) -> Figure:
    """The pipeline of `bridged`, and below it that of `direct`, the alternative; both end at the right.

    Args:
        study: The page.
        bridged: A checkpoint of the study.
        direct: Likewise.

    Raises:
        StudyError: When the study does not declare one of them.
    """
    use_style()
    routes = {name: lines_of(study, name) for name in (bridged, direct)}
    columns = 1 + max(max(map(max, columns_of(study, lines))) for lines in routes.values())
    width = max(WIDTH, COLUMN * columns)
    height = LEGEND + sum(HEADING + sum(_lane(study, line) for line in lines) for lines in routes.values())
    figure, axes = plt.subplots(figsize=(width, height))
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    top, flows = height, {WEIGHTS}
    for name, lines in routes.items():
        axes.text(0.1, top - HEADING / 2, route_label(name), weight="bold", va="center", fontsize=9.5)
        boxes = _boxes(study, lines, columns, width, top - HEADING)
        for line in boxes:
            flows |= _draw_line(axes, study, line, deployed=line is boxes[-1])
            flows |= _draw_teaching(axes, study, line, {other[-1].checkpoint: other[-1] for other in boxes})
        end = boxes[-1][-1]
        axes.text(end.x, end.y - BOX[1] / 2 - 0.04, "deployed", ha="center", va="top", fontsize=8, style="italic")
        top -= HEADING + sum(_lane(study, line) for line in lines)
    shown = [Line2D([], [], **look, label=flow) for flow, look in FLOWS.items() if flow in flows]
    look = {"ncols": 3 if len(shown) < 4 else 2, "fontsize": 8, "columnspacing": 1.0, "borderaxespad": 0.2}
    axes.legend(handles=shown, loc="lower center", **look).set_in_layout(False)  # as wide as the page
    plt.close(figure)
    return figure


def columns_of(study: Study, lines: list[list[str]]) -> list[list[int]]:
    """In which column, from 0, every checkpoint of each line stands: right of what it is made from, as near as can be."""
    ends: dict[str, int] = {}  # teacher -> its column
    places = []
    for line in lines:
        own = [0]
        for name in line[1:]:
            teacher = study.checkpoints[name].teacher
            own.append(max(own[-1], ends[teacher] if teacher else 0) + 1)
        if len(own) > 1:
            own[0] = own[1] - 1
        ends[line[-1]] = own[-1]
        places.append(own)
    return places


def _lane(study: Study, line: list[str]) -> float:
    """Height of a line, in inches."""
    return LANE + CHIPS * any(learns_from_labels(study.checkpoints[name]) for name in line)


def _boxes(study: Study, lines: list[list[str]], columns: int, width: float, top: float) -> list[list[Box]]:
    """The boxes of each line, the last of them in the last column."""
    places = columns_of(study, lines)
    shift = columns - 1 - places[-1][-1]
    boxes = []
    for line, own in zip(lines, places, strict=True):
        top -= _lane(study, line)
        at = [(place + shift + 0.5) * width / columns for place in own]
        boxes.append([Box(name, x, top + LANE / 2) for name, x in zip(line, at, strict=True)])
    return boxes


def _draw_line(axes: plt.Axes, study: Study, line: list[Box], deployed: bool) -> set[str]:
    """Boxes, the weights' way through them and the labels they learn from; returns what flows."""
    flows = set()
    for before, box in zip([None, *line], line, strict=False):
        node = study.checkpoints[box.checkpoint]
        color, _ = route_look(box.checkpoint)
        _frame(axes, box.x, box.y, BOX, color)
        words = words_of(study, box.checkpoint, deployed)
        for row, text in enumerate(words):
            look = (
                {"weight": "normal", "fontsize": min(7.5, 130 / len(text))}
                if row
                else {"weight": "bold", "fontsize": 8}
            )
            at = box.y + 0.18 * ((len(words) - 1) / 2 - row)
            axes.text(box.x, at, text, ha="center", va="center", **look)
        if before:
            _arrow(axes, [(before.x + BOX[0] / 2, before.y), (box.x - BOX[0] / 2, box.y)], WEIGHTS)
        if learns_from_labels(node):
            edge = box.y + BOX[1] / 2
            chip = edge + CHIPS - CHIP[1] / 2
            _frame(axes, box.x, chip, CHIP, GREEN)
            axes.text(box.x, chip, f"labels {node.labels}", ha="center", va="center", fontsize=7.5)
            _arrow(axes, [(box.x, chip - CHIP[1] / 2), (box.x, edge)], LABELS)
            flows.add(LABELS)
    return flows


def _draw_teaching(axes: plt.Axes, study: Study, line: list[Box], ends: dict[str, Box]) -> set[str]:
    """Arrows from the teachers, given by name, to whom they teach on this line; returns what flows."""
    flows = set()
    for box in line:
        node = study.checkpoints[box.checkpoint]
        if node.teacher:
            teacher = ends[node.teacher]
            flow = SAMPLES if node.stage == "teacher_sample_sft" else DISTRIBUTIONS
            corner = [(teacher.x + BOX[0] / 2, teacher.y), (box.x, teacher.y), (box.x, box.y + BOX[1] / 2)]
            _arrow(axes, corner, flow)
            flows.add(flow)
    return flows


def words_of(study: Study, checkpoint: str, deployed: bool) -> list[str]:
    """What stands in a checkpoint's box: its place in the pipeline, its stage, whose answers it learns from.

    Args:
        study: The page.
        checkpoint: Which.
        deployed: Whether it is on the deployed line, not on a teacher's.
    """
    node = study.checkpoints[checkpoint]
    if node.stage == "base":
        return [role_of(study, checkpoint), "as published"]
    stage = stage_name(node.stage)
    if node.teacher:
        place = {"forward_kl": "Stage 2a", "opd": "Stage 2b"}.get(node.stage, "Stage 2")
    elif role_of(study, checkpoint) != "student" or not deployed:
        place = "Stage 1"
    elif study.checkpoints[node.from_].stage == "base":
        place = "cold RL"
    else:
        place, stage = "Stage 3", f"{stage}, optional"
    answers = "teacher's answers" if node.teacher and rollouts_of(node) == node.teacher else "own answers"
    return [place, stage, f"on {answers}"]


def _frame(axes: plt.Axes, x: float, y: float, size: tuple[float, float], color: str) -> None:
    corner = (x - size[0] / 2, y - size[1] / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": "white", "edgecolor": color, "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch(corner, *size, **style, zorder=3))


def _arrow(axes: plt.Axes, points: list[tuple[float, float]], flow: str) -> None:
    """A line through the points with a head at its end."""
    look = FLOWS[flow]
    x, y = zip(*points, strict=True)
    axes.plot(x[:-1], y[:-1], **look, solid_joinstyle="miter", zorder=2)
    head = {"arrowstyle": "-|>", "mutation_scale": 8 + 2 * look["linewidth"], "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=head | look, zorder=2)

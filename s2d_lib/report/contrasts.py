"""Contrasts: paired differences of chosen pairs of checkpoints, where a table's one reference does not say enough."""

from pathlib import Path

import pandas as pd

from s2d_lib.claims import Results, bootstrap, load_published
from s2d_lib.claims.fair import budget, check_together, paired_accuracies, seeds_of
from s2d_lib.errors import StudyError
from s2d_lib.report.run_pages import link
from s2d_lib.report.study_table import NOT_PRINTED, SCALES, family_of, meant_by, published_sets
from s2d_lib.report.style import route_label
from s2d_lib.report.tables import write_forms

TEACHERS = ("rl_teacher", "rl_large_teacher")
HALF = ("rl_teacher_1H", "rl_large_teacher_1H")
SFT_HALF = ("sft_teacher_1H", "sft_large_teacher_1H")
BRIDGE = "student.bridge"

CONTRASTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "transfers": (
        "What is left of the bridge without its warmup, and without dense supervision?",
        [
            (f"student.{transfer}.{teacher}", f"{BRIDGE}.{teacher}")
            for teacher in (*TEACHERS, "rl_same_size")
            for transfer in ("opd_only", "teacher_sample_sft")
        ],
    ),
    "stage_3": (
        "What does GRPO on fresh problems add, and what does their being fresh?",
        [
            (f"{BRIDGE}.{teacher}.grpo_2H", f"{BRIDGE}.{teacher}{end}")
            for teacher in (*HALF, *SFT_HALF)
            for end in ("", ".replay_1H")
        ],
    ),
    "starts": (
        "What is the start worth once Stage 3 has followed?",
        [
            (f"student.{transfer}.{teacher}.grpo_2H", f"{BRIDGE}.{teacher}.grpo_2H")
            for teacher in HALF
            for transfer in ("opd_only", "teacher_sample_sft")
        ],
    ),
    "placement": (
        "The second half to the teacher, or to the student?",
        [(f"{BRIDGE}.{teacher}", f"{BRIDGE}.{teacher}_1H.grpo_2H") for teacher in TEACHERS],
    ),
    "crossing_pairs": (
        "What does self-distillation change in Stage 1, and in Stage 3?",
        [
            *((f"teacher.{method}", "teacher.rl") for method in ("sdpo", "srpo")),
            *((f"{BRIDGE}.{method}_teacher", f"{BRIDGE}.rl_teacher") for method in ("sdpo", "srpo")),
            ("student.srpo", "student.grpo"),
            *((f"{BRIDGE}.rl_teacher.{method}", f"{BRIDGE}.rl_teacher") for method in ("grpo", "srpo")),
            (f"{BRIDGE}.rl_teacher.srpo", f"{BRIDGE}.rl_teacher.grpo"),
            *((route, "student.srpo") for route in (f"{BRIDGE}.srpo_teacher", f"{BRIDGE}.rl_teacher.srpo")),
        ],
    ),
}
"""Name of the files -> title and pairs: the first minus the second."""


def title_of(name: str) -> str:
    """The question that contrasts answer."""
    return CONTRASTS[name][0]


def contrasts(results: Results, name: str, root: Path | None = None) -> pd.DataFrame:
    """Paired differences, one row a pair.

    Args:
        results: Of a profile.
        name: Of CONTRASTS.
        root: The project's folder.

    Returns:
        `first`, `second`, `seeds`; for each evaluation set `<set> difference` with `low` and `high` (shares, 95% over seeds
        and problems), for a profile that plays one of paper A's families, on all of the paper's sets, `<set> published`
        (points or NaN) and `<set> published source`; `labels first`, `labels second`,
        `gradings first`, `gradings second` (over the whole routes, means over seeds).

    Raises:
        StudyError: When a run is missing, or what stands in one row does not belong together.
    """
    _, pairs = CONTRASTS[name]
    return pd.DataFrame([_row(results, first, second, root) for first, second in pairs])


def _row(results: Results, first: str, second: str, root: Path | None) -> dict:
    bundle = results.bundle
    for side in (first, second):
        if not seeds_of(bundle, side):
            raise StudyError(
                f"the results of profile {results.name!r} hold no run of {side!r}: make it with `make study`."
            )
    check_together(bundle, (first, second))
    published, family = load_published(root), family_of(results.name, root)
    row: dict[str, object] = {"first": first, "second": second, "seeds": len(seeds_of(bundle, first))}
    for name in bundle.sets:
        found = bootstrap(*paired_accuracies(bundle, first, second, name))
        row |= {
            f"{name} difference": found.mean,
            f"{name} difference low": found.low,
            f"{name} difference high": found.high,
        }
    for name, theirs in published_sets(results, published).items() if family else ():
        printed = published.difference(family, first, second, theirs)
        row[f"{name} published"] = printed.value if printed else float("nan")
        row[f"{name} published source"] = printed.source if printed else NOT_PRINTED
    spent = budget(bundle, first), budget(bundle, second)
    return row | {
        f"{kind} {side}": getattr(own, kind)
        for kind in ("labels", "gradings")
        for side, own in zip(("first", "second"), spent, strict=True)
    }


def readable_contrasts(results: Results, numbers: pd.DataFrame, links: bool = False) -> pd.DataFrame:
    """The same for readers: points with intervals, labels and gradings of both sides; with links to run pages on request."""
    meant = meant_by(results)
    rows = []
    for row in numbers.to_dict("records"):
        shown = {}
        for side in ("first", "second"):
            label = route_label(row[side])
            shown[side] = link(label, row[side]) if links else label
        for name in results.bundle.sets:
            mean, low, high = (100 * row[f"{name} difference{bound}"] for bound in ("", " low", " high"))
            shown[f"{name}, difference"] = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        for name in (c.removesuffix(" published") for c in numbers if c.endswith(" published")):
            value, source = row[f"{name} published"], row[f"{name} published source"]
            printed = NOT_PRINTED if pd.isna(value) else f"{value:+.1f} ({source.rpartition(': ')[2]})"
            shown[f"{meant.get(name, name)}, published"] = printed
        for kind in ("labels", "gradings"):
            shown[f"{kind}, first / second"] = f"{row[f'{kind} first']:,.0f} / {row[f'{kind} second']:,.0f}"
        rows.append(shown)
    return pd.DataFrame(rows)


def write_contrasts(results: Results, numbers: pd.DataFrame, name: str, folder: Path) -> None:
    """Write csv, md and tex into figures/<profile>."""
    title, pairs = CONTRASTS[name]
    note = (
        f"First minus second, points, paired by seed and problem, with 95% intervals over both. Profile {results.name}, seeds "
        f"{seeds_of(results.bundle, pairs[0][0])}."
    ) + (f" {SCALES}" if family_of(results.name) else "")
    shown, linked = readable_contrasts(results, numbers), readable_contrasts(results, numbers, links=True)
    write_forms(numbers, {title: shown}, folder, name, note, {title: linked})

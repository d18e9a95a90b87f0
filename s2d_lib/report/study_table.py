"""A table of the study with results: accuracies and differences beside the published ones, and who consumed the labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims import Published, Results, load_claims, load_published
from s2d_lib.claims.fair import seeds_of
from s2d_lib.report.analysis import so_far
from s2d_lib.report.decodings import best_note, shared_decodings, with_best, with_untrained
from s2d_lib.report.style import BEST, interval, route_label
from s2d_lib.report.tables import at_decoding, linked, readable, table_of, write_forms
from s2d_lib.results.bundle import Bundle, ancestry, own_line, read_bundle
from s2d_lib.study import load_profile, load_study, project_root
from s2d_lib.study.graph import table_in
from s2d_lib.study.page import Table

CONSUMERS = {
    "itself": "labels: itself",
    "student": "labels: same-size teacher",
    "small_teacher": "labels: small teacher",
    "teacher": "labels: teacher",
    "large_teacher": "labels: large teacher",
}
"""Which model consumed labels on the way to a checkpoint -> column: its own weights, or a teacher by its role (a teacher with
another tokenizer counts as the teacher)."""

NOT_PRINTED = "not printed"
COSTS_SHOWN = ("labeled problems", "gradings", "own steps", "all steps", "tokens sampled", "tokens trained on")


def open_results(profile: str, root: Path | None = None) -> Results:
    """The committed results of a profile, and the profile as far as they go (see `so_far`).

    Raises:
        StudyError: When there are none, or they are broken.
    """
    root = root or project_root()
    bundle, settings = read_bundle(root / "figures" / profile / "results"), load_profile(profile, root=root)
    untrained = root / "figures" / (settings.untrained_results or "") / "results"
    if settings.untrained_results and untrained.is_dir():
        bundle = with_untrained(bundle, read_bundle(untrained))
    return Results(profile, so_far(profile, settings, load_study(root), bundle.records), bundle)


@dataclass(frozen=True)
class StudyTable:
    """One table with its numbers.

    Attributes:
        name: In study.yaml, and of the files it is written to.
        title: Its question.
        numbers: From `table_of`, then the columns of CONSUMERS (distinct labeled problems, means over seeds) and for each
            of the paper's sets, by the profile's name where one stands for it, `<set> published` (points against the reference),
            `<set> published accuracy`, `<set> published error` (as printed; NaN where it is not) and `<set> published source`.
            A profile that plays none of the paper's families has no published columns.
        measured: The evaluation sets, in order.
        decodings: Those that all rows have, if they have several.
        meant: Evaluation set -> what the paper evaluates on, as far as the profile names it.
        note: What to say under it.
    """

    name: str
    title: str
    numbers: pd.DataFrame
    measured: list[str]
    decodings: list[str]
    meant: dict[str, str]
    note: str

    @property
    def sets(self) -> list[str]:
        """The evaluation sets, and those of the paper's that no set stands for."""
        published = [c.removesuffix(" published") for c in self.numbers if c.endswith(" published")]
        return list(dict.fromkeys([*self.measured, *published]))

    @property
    def accuracies(self) -> pd.DataFrame:
        """For readers: accuracy and difference to the reference, ours and then the paper's."""
        plain = readable(self.numbers, self.measured)
        kept = ["route"]
        for name in self.sets:
            kept += [c for c in (f"{name}, %", f"{name}, difference") if c in plain]
            if f"{name} published" in self.numbers:
                column = f"{self.meant.get(name, name)}, published"
                plain[column] = [published_cell(row, name) for row in self.numbers.to_dict("records")]
                kept.append(column)
        return plain[kept]

    @property
    def at_decodings(self) -> pd.DataFrame:
        """For readers: the accuracies at every decoding, all rows at the first one before those at the next; its index is that
        of the numbers."""
        rows, parts = self._plain, []
        for decoding in self.decodings:
            part = rows[["route"]].assign(decoding=decoding)
            for name in self.measured:
                column = at_decoding(name, decoding)
                part[f"{name}, %"] = [
                    interval(*row) for row in rows[[column, f"{column} low", f"{column} high"]].to_numpy()
                ]
            parts.append(part)
        return pd.concat(parts)

    @property
    def costs(self) -> pd.DataFrame:
        """For readers: which model consumed how many labels, and what the whole route cost."""
        numbers = self._plain
        plain = readable(numbers, self.measured)
        used = [c for c in CONSUMERS.values() if numbers[c].any()]
        consumers = {c: [f"{value:,.0f}" for value in numbers[c]] for c in used}
        return plain[["route"]].assign(**consumers, **{name: plain[name] for name in COSTS_SHOWN})

    @property
    def _plain(self) -> pd.DataFrame:
        """The numbers without the rows of untrained models at their best temperature."""
        return self.numbers[~self.numbers["checkpoint"].str.endswith(BEST)]

    def write(self, folder: Path) -> None:
        """Write csv, md and tex into figures/<profile>."""
        shown = self.shown(self.title, "What these routes cost, and who consumed the labels")
        write_forms(self.numbers, shown, folder, self.name, self.note, self.links(shown))

    def shown(self, title: str, costs: str) -> dict[str, pd.DataFrame]:
        """All that readers are shown, by title: of the accuracies, and of the costs."""
        further = {f"{title} At every decoding": self.at_decodings} if self.decodings else {}
        return {title: self.accuracies, **further, costs: self.costs}

    def links(self, shown: dict[str, pd.DataFrame], start: str = "") -> dict[str, pd.DataFrame]:
        """The same with links to run pages; `start` as in `linked`."""
        return {title: linked(table, self.numbers.loc[table.index], start) for title, table in shown.items()}


def study_table(results: Results, name: str, root: Path | None = None) -> StudyTable:
    """A table of study.yaml with a profile's results.

    Raises:
        StudyError: When the results are incomplete or do not belong together.
    """
    bundle = results.bundle
    spec, missing = table_in(load_study(root), name, results.profile, results.name)
    numbers, decodings = table_of(bundle, spec), shared_decodings(bundle, spec.rows)
    spec, bundle = spec.model_copy(update={"rows": list(numbers["checkpoint"])}), with_best(bundle)
    spent = pd.DataFrame([labels_by_consumer(bundle, checkpoint) for checkpoint in spec.rows])
    published = published_columns(results, spec, load_published(root), family_of(results.name, root))
    sources = dict.fromkeys(s for c in published if c.endswith("source") for s in published[c] if s != NOT_PRINTED)
    return StudyTable(
        name,
        spec.title,
        pd.concat([numbers, spent, published], axis=1),
        bundle.sets,
        decodings,
        meant_by(results),
        note_of(replace(results, bundle=bundle), spec, sources, missing),
    )


def meant_by(results: Results) -> dict[str, str]:
    """Evaluation set -> what the paper evaluates on, as far as the profile names it."""
    return {own: theirs for theirs, own in results.profile.stands_for.items()}


def labels_by_consumer(bundle: Bundle, checkpoint: str) -> dict[str, float]:
    """How many distinct labeled problems each model consumed on the way to a checkpoint, means over seeds, by CONSUMERS."""
    counts = []
    for seed in seeds_of(bundle, checkpoint):
        own, used = own_line(bundle, checkpoint, seed), {who: set() for who in CONSUMERS}
        for name in ancestry(bundle, checkpoint, seed):
            record = bundle.records[name, seed]
            who = "itself" if name in own else record["resolved"]["role"].replace("split_teacher", "teacher")
            if "label_use" in record:
                used[who] |= set(record["label_use"]["problems"])
        counts.append([len(problems) for problems in used.values()])
    return dict(zip(CONSUMERS.values(), np.mean(counts, axis=0), strict=True))


def family_of(profile: str, root: Path | None = None) -> str | None:
    """The paper's model family that a profile plays in claims.yaml; None when it plays none."""
    roles = {name: family for played in load_claims(root).families.values() for family, name in played.items()}
    return roles.get(profile)


def published_sets(results: Results, published: Published) -> dict[str, str]:
    """Paper A's sets by the name of the evaluation set that stands for each, or by their own."""
    return {results.profile.stands_for.get(theirs, theirs): theirs for theirs in published.problems["A"]}


def published_columns(results: Results, spec: Table, published: Published, family: str | None) -> pd.DataFrame:
    """What the paper prints for every row, on all of its sets; nothing for a profile that plays none of its families."""
    rows = []
    for checkpoint in spec.rows:
        row: dict[str, object] = {}
        for name, theirs in published_sets(results, published).items() if family else ():
            cell = published.cell(family, checkpoint, theirs)
            compared = spec.reference and spec.reference != checkpoint
            difference = published.difference(family, checkpoint, spec.reference, theirs) if compared else None
            row |= {
                f"{name} published": difference.value if difference else float("nan"),
                f"{name} published accuracy": cell.mean if cell else float("nan"),
                f"{name} published error": cell.error if cell else float("nan"),
                f"{name} published source": cell.source if cell else NOT_PRINTED,
            }
        rows.append(row)
    return pd.DataFrame(rows, index=range(len(spec.rows)))


def published_cell(row: dict, name: str) -> str:
    """The printed accuracy, with its difference to the reference in brackets."""
    difference, accuracy = row[f"{name} published"], row[f"{name} published accuracy"]
    if pd.isna(accuracy):
        return NOT_PRINTED
    return f"{accuracy:.1f}" if pd.isna(difference) else f"{accuracy:.1f} ({difference:+.1f})"


def note_of(results: Results, spec: Table, sources: Iterable[str], missing: Sequence[str] = ()) -> str:
    """What stands under a table whose rows of the roles `missing` the profile can't make."""
    samples = results.profile.evaluation.samples
    against = f", to {route_label(spec.reference)}" if spec.reference else ""
    seeds, best = seeds_of(results.bundle, spec.rows[0]), best_note(results.bundle, spec.rows)
    printed = (
        f" Published: percent{' (difference' + against + ')' if against else ''}, from {'; '.join(sources)}. {SCALES}"
    )
    roles = " and ".join(f"`{role}`" for role in missing)
    without = f"Rows that need a model for role {roles} are left out, since the profile has none. " if missing else ""
    return (
        f"Profile {results.name}, seeds {seeds}, avg@{samples}, 95% intervals over seeds and problems; differences in "
        f"points{against}, paired by seed and problem.{printed if sources else ''} Labels are distinct labeled problems over "
        f"the whole route, by the model that was trained on them. {best}{without}Made by `make study PROFILE={results.name}`."
    )


SCALES = (
    "Published figures are the paper's, on its own models and sets: the scales differ, so only the order of routes and the "
    "sign of differences can be compared."
)

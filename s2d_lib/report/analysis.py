"""Which analysis notebook answers which question: the tables it writes, and what a profile must have for it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from s2d_lib.claims import Claims
from s2d_lib.study.graph import table_in
from s2d_lib.study.page import Study
from s2d_lib.study.profile import Profile


@dataclass(frozen=True)
class Analysis:
    """A notebook over committed results.

    Attributes:
        notebook: Its name.
        writes: Tables of study.yaml whose files it writes; no other notebook writes them.
        reads: Further tables whose checkpoints it shows.
        families: Whether it needs the profile to have a table of model families in claims.yaml.
        committed: The profile whose results the notebook itself is committed with; others get an executed copy.
    """

    notebook: str
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    families: bool = False
    committed: str = "micro-full"


GENERIC = "90_headline"
"""The notebook that writes any one table, by its parameter `table`."""

ANALYSES = (
    Analysis(GENERIC, writes=("headline",)),
    Analysis("91_allocation", writes=("table2", "table3")),
    Analysis("92_bridge", writes=("components", "estimators"), reads=("table3",)),
    Analysis("93_student_rl", writes=("table4", "table5", "table6")),
    Analysis("94_placement", writes=("table7",)),
    Analysis("95_families", families=True),
    Analysis("97_claims", families=True),
    Analysis("70_language_model", writes=("same_size",), committed="smollm2"),
    Analysis("99_crossing", writes=("crossing",), committed="micro-crossing"),
)

COURSES = "98_self_distillation"
"""The notebook over a group of benchmarks (`courses` in claims.yaml); it is committed with the first group."""


def so_far(name: str, settings: Profile, study: Study, records: Collection[tuple[str, int]]) -> Profile:
    """The profile with only those tables that the results hold all runs of.

    A long study can so be looked at, and its results committed, before it is finished.

    Args:
        name: Of the profile.
        settings: Its.
        study: The page.
        records: Checkpoint and seed of every run in the results.
    """
    seeds: dict[str, set[int]] = {}
    for checkpoint, seed in records:
        seeds.setdefault(checkpoint, set()).add(seed)

    def complete(rows: Sequence[str]) -> bool:
        return all(seeds.get(row) and seeds[row] == seeds[rows[0]] for row in rows)

    tables = [table for table in settings.tables if complete(table_in(study, table, settings, name)[0].rows)]
    return settings.model_copy(update={"tables": tables})


def analyses_of(name: str, profile: Profile, claims: Claims) -> tuple[list[Analysis], list[str]]:
    """The analysis notebooks that a profile has the results for, and the tables that none of them writes.

    Args:
        name: Of the profile.
        profile: Its settings.
        claims: Whose `families` say for which profiles there is a table of families.
    """
    chosen = [
        analysis
        for analysis in ANALYSES
        if {*analysis.writes, *analysis.reads} <= set(profile.tables)
        and (name in claims.families or not analysis.families)
    ]
    written = {table for analysis in chosen for table in analysis.writes}
    return chosen, [table for table in profile.tables if table not in written]

"""Are the problems here, and do they make the sets that the profile asks for?"""

from collections.abc import Iterator
from pathlib import Path

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.problems.files import is_local
from s2d_lib.problems.public import SOURCES
from s2d_lib.problems.sources import LOCAL_FILES, cut, load_problems, local_copy
from s2d_lib.study.load import project_root
from s2d_lib.study.problem_sets import (
    WHOLE,
    AnySet,
    BenchmarkSet,
    CompetitionSet,
    Half,
    LabelBudget,
    ProblemSets,
    whole_pool,
)
from s2d_lib.study.resolve import refuse_too_few_problems, stored_answers


def check_problems(profile: str) -> Iterator[Line]:
    """Every dataset's file or cached copy; where all are files, every label pool is loaded, taken apart from the evaluation
    sets and cut, as a run would do it, and must fill an optimiser step of every run on it."""
    runs, specs, uses = resolved_runs(profile), {}, {}
    for run in runs.values():
        if run.problems.pool:  # of a half or a cut to a label budget the whole, so that it is loaded once
            whole = WHOLE if isinstance(run.problems.pool, Half | LabelBudget) else run.labels
            specs[whole] = run.problems.model_copy(update={"pool": sets(run.problems)[0]})
            uses.setdefault(whole, []).append(run)
    datasets = {one.file: one for spec in specs.values() for one in sets(spec) if hasattr(one, "dataset")}
    missing = {name: sentence for name, one in datasets.items() if (sentence := absent(one))}
    for name in datasets:
        yield Line(f"dataset {name}", missing.get(name, "is here"), ok=name not in missing)
    if not all(map(at_hand, specs.values())):
        return
    for labels, spec in specs.items():
        try:
            found = load_problems(spec, labels)
            for run in uses[labels]:
                part = run.problems.pool
                pool = cut(found.pool, part) if isinstance(part, Half | LabelBudget) else found.pool
                refuse_too_few_problems(run, len(pool), stored_answers(run, runs))
        except StudyError as error:
            yield Line(f"label pool {labels}", str(error), ok=False)
            continue
        evaluations = ", ".join(f"{name} {len(problems)}" for name, problems in found.evaluations.items())
        yield Line(f"label pool {labels}", f"{len(found.pool)} problems, apart from those of {evaluations}")


def at_hand(spec: ProblemSets) -> bool:
    """Whether all sets of a run are generated, or read from files that are here."""
    datasets = [one for one in sets(spec) if hasattr(one, "dataset")]
    return all((one.path or local_copy(one.file)) and not absent(one) for one in datasets)


def sets(spec: ProblemSets) -> list[AnySet]:
    """All sets of a run, the whole ones where it uses a part."""
    return [one for one in (whole_pool(spec.pool), *spec.evaluations.values(), spec.validation) if one is not None]


def absent(one: CompetitionSet | BenchmarkSet) -> str | None:
    """What to do about a dataset that is neither a local file nor in the cache of `datasets`; None where it is."""
    place = one.path or local_copy(one.file)
    if place is not None and is_local(place):
        path = project_root() / place
        return None if path.is_file() else f"its file {one.path} is missing: put it there, or drop the set's `path`."
    hub, configs, split = hub_place(one.dataset, place)
    commands = [
        f"`datasets.load_dataset({', '.join(map(repr, filter(None, (hub, config))))}, split={split!r})`"
        for config in configs
        if not cached(hub, config)
    ]
    if hub and not commands:
        return None
    file = LOCAL_FILES.get(one.file)
    copy = f"put it as {file} into a folder that S2D_DATA names" if file else "give the set's `path`"
    online = f", or load it once where there is a network ({' and '.join(commands)})" if hub else ""
    return f"is neither a local file nor whole in the cache of `datasets`: {copy}{online}."


def hub_place(dataset: str, hub: str | None = None) -> tuple[str | None, tuple[str | None, ...], str]:
    """A dataset's id on the Hub, or None where it is published as files; its configurations there that are loaded; the split.

    Args:
        dataset: Name.
        hub: Id of a copy that a profile names, which has none of the configurations.
    """
    source = SOURCES.get(dataset)
    if source is None or source.hub is None:
        return hub, (None,) if hub else (), "train"
    return hub or source.hub, source.configs if hub in (None, source.hub) else (None,), source.split


def cached(hub: str, config: str | None) -> bool:
    """Whether `datasets` has loaded a configuration of a Hub dataset before (any, for None), and so can without a network."""
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase

    *publisher, name = hub.split("/")
    folder = Path(HF_DATASETS_CACHE) / "___".join([*publisher, camelcase_to_snakecase(name)])
    return any(folder.glob(f"{config or '*'}/*/*/dataset_info.json"))

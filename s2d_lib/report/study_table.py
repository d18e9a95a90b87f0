"""Results of profiles, and a table of the study with them: accuracies, differences, costs, and who consumed the labels.

Base models that were evaluated at several decodings stand in a table once more, as `<name>@best` (s2d_lib.results.bundle).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims import Claims, Published, Results, bootstrap, load_claims, load_published
from s2d_lib.claims.fair import accuracies, check_together, paired_accuracies
from s2d_lib.errors import StudyError
from s2d_lib.report.looks import load_report, route_label, route_labels
from s2d_lib.report.tables import COUNT, Sheet, columns, intervals, link
from s2d_lib.results.bundle import (
    BEST,
    Bundle,
    ancestry,
    best_decodings,
    own_line,
    read_bundle,
    route_cost,
    seeds_of,
    with_best,
)
from s2d_lib.study import load_profile, load_study, profile_names, project_root
from s2d_lib.study.graph import table_in
from s2d_lib.study.page import Study, Table
from s2d_lib.study.profile import Profile
from s2d_lib.study.strict import did_you_mean

STUDENT = "student"
COSTS = {
    "own_steps": "own steps", "all_steps": "all steps", "labels": "labeled problems", "gradings": "gradings",
    "sampled_sequences": "samples", "sampled_tokens": "tokens sampled", "trained_tokens": "tokens trained on",
}  # fmt: skip
COSTS_SHOWN = ("labeled problems", "gradings", "own steps", "all steps", "tokens sampled", "tokens trained on")
CONSUMERS = {"itself": "labels: itself", "student": "labels: same-size teacher"} | {
    role: f"labels: {role.replace('_', ' ')}" for role in ("small_teacher", "teacher", "large_teacher")
}
"""Which model consumed labels on the way to a checkpoint -> column: its own weights, or a teacher by its role (a teacher with
another tokenizer counts as the teacher)."""
NOT_PRINTED = "not printed"
OF_FAMILIES = "table8"


def open_results(profile: str, root: Path | None = None) -> Results:
    """The committed results of a profile, and the profile as far as they go (see `so_far`); a StudyError where there are none, or
    they are broken, or the profile's `untrained_results` are of something else."""
    root = root or project_root()
    bundle, settings = read_bundle(root / "figures" / profile / "results"), load_profile(profile, root=root)
    untrained = root / "figures" / (settings.untrained_results or "") / "results"
    if settings.untrained_results and untrained.is_dir():
        bundle = with_untrained(bundle, read_bundle(untrained))
    return Results(profile, so_far(profile, settings, load_study(root), bundle.records), bundle)


def so_far(name: str, settings: Profile, study: Study, records: Collection[tuple[str, int]]) -> Profile:
    """The profile with only those tables that the results (checkpoint and seed of every run) hold all runs of, so that a long
    study can be looked at before it is finished."""
    found = []
    for table in settings.tables:
        rows = table_in(study, table, settings, name)[0].rows
        seeds = {tuple(sorted(seed for made, seed in records if made == row)) for row in rows}
        found += [table] if len(seeds) == 1 and seeds != {()} else []
    return settings.model_copy(update={"tables": found})


def with_untrained(bundle: Bundle, other: Bundle) -> Bundle:
    """The results with the decodings at which other results have the same base models."""
    for (name, seed), record in other.records.items():
        own, theirs = (r["resolved"] for r in (bundle.records.get((name, seed), {"resolved": {}}), record))
        differs = [k for k in theirs if k not in ("profile", "evaluation", "overrides") and own.get(k) != theirs[k]]
        if differs or theirs["stage"] != "base":
            raise StudyError(
                f"`untrained_results` has a run {name!r}, seed {seed}, that is not the base model of these results "
                f"({', '.join(differs) or 'stage'} differs): evaluate the untrained models of this very profile there."
            )
    sample = ["seed", "checkpoint", "set", "problem", "decoding"]
    return replace(bundle, decoded=pd.concat([bundle.decoded, other.decoded]).drop_duplicates(sample))


def results_of(profile: str, claims: Claims, root: Path | None = None) -> dict[str, Results]:
    """The paper's model families -> results of the profiles that play them in this profile's table, as far as there are any; a
    StudyError where claims.yaml gives the profile no part, or results that exist are broken."""
    root = root or project_root()
    if profile not in claims.families:
        hint = did_you_mean(profile, claims.families)
        raise StudyError(f"profile {profile!r} is not in `families` of claims.yaml, so no claim is about it; {hint}")
    played, there = claims.families[profile], profile_names(root)
    has = lambda name: name in there and (root / "figures" / name / "results").is_dir()  # noqa: E731
    return {family: open_results(name, root) for family, name in played.items() if has(name)}


def beside_untrained(bundle: Bundle, rows: Sequence[str]) -> list[str]:
    """Rows of a table with every base model's at its best temperature behind its own, of results `with_best`; the student's
    stands first where the student is no row itself, if it was evaluated with the seeds of the others."""
    made, best = {name for name, _ in bundle.records}, f"{STUDENT}{BEST}"
    first = best in made and STUDENT not in rows and seeds_of(bundle, best) == seeds_of(bundle, rows[0])
    beside = [name for row in rows for name in (row, f"{row}{BEST}") if name == row or name in made]
    return [best, *beside] if first else beside


def shared_decodings(bundle: Bundle, rows: Sequence[str]) -> list[str]:
    """The decodings at which all of these checkpoints were evaluated, if there are several."""
    at = bundle.decoded.groupby("decoding", sort=False)["checkpoint"].unique()
    shared = [decoding for decoding, names in at.items() if set(rows) <= set(names)]
    return shared if len(shared) > 1 else []


def table_of(bundle: Bundle, table: Table) -> pd.DataFrame:
    """Numbers of a table, one row a checkpoint: `checkpoint`, `route`, `seeds`; for each evaluation set `<set>` with its
    interval (95% over seeds and problems), `<set> difference` to a reference (NaN in its own row), the COSTS (means over
    seeds) and, where all rows have several decodings, `<set> at <decoding>`. A StudyError where a checkpoint or a seed of it is
    missing from the results, or they do not belong together (s2d_lib.claims.fair)."""
    for name in table.rows:
        if not seeds_of(bundle, name):
            raise StudyError(f"table {table.title!r}: the results hold no run of {name!r}; make it with `make study`.")
    decodings = {decoding: bundle.at(decoding) for decoding in shared_decodings(bundle, table.rows)}
    bundle = with_best(bundle)
    names, reference, rows = beside_untrained(bundle, table.rows), table.reference, []
    check_together(bundle, list(dict.fromkeys([*names, *filter(None, [reference])])))
    for name, label in route_labels(names).items():
        seeds = seeds_of(bundle, name)
        row: dict = {"checkpoint": name, "route": label, "seeds": len(seeds)}
        for one in bundle.sets:
            row |= columns(one, bootstrap(accuracies(bundle, name, one).to_numpy()))
            if reference == name:
                row |= dict.fromkeys(f"{one} difference{end}" for end in ("", " low", " high"))
            elif reference:
                row |= columns(f"{one} difference", bootstrap(*paired_accuracies(bundle, name, reference, one)))
        spent = pd.DataFrame([route_cost(bundle, name, seed) for seed in seeds]).mean()
        row |= {COSTS[kind]: round(value) for kind, value in spent.items()}
        for decoding, at in decodings.items() if not name.endswith(BEST) else ():
            for one in bundle.sets:
                row |= columns(f"{one} at {decoding}", bootstrap(accuracies(at, name, one).to_numpy()))
        rows.append(row)
    return pd.DataFrame(rows)


def study_table(results: Results, name: str, root: Path | None = None, start: str = "") -> Sheet:
    """A table of study.yaml with a profile's results: accuracies, those at every decoding where there are several, and costs.
    `start` leads to the profile's folder, where the table is written into another one.

    Its numbers are those of `table_of`, then the columns of CONSUMERS (distinct labeled problems, means over seeds) and, where
    the profile plays one of paper A's families, for each of the paper's sets, by the name of the set that stands for it,
    `<set> published` (points against the reference), `<set> published accuracy`, `error` and `source` (as printed, or NaN).
    """
    spec, missing = table_in(load_study(root), name, results.profile, results.name)
    numbers, decodings = table_of(results.bundle, spec), shared_decodings(results.bundle, spec.rows)
    bundle, rows = with_best(results.bundle), list(numbers["checkpoint"])
    consumed = pd.DataFrame([labels_by_consumer(bundle, checkpoint) for checkpoint in rows])
    published = _published(results, rows, spec.reference, root)
    numbers = pd.concat([numbers, consumed, published], axis=1)
    routes = pd.DataFrame({"route": [link(*pair, start) for pair in numbers[["route", "checkpoint"]].to_numpy()]})
    meant = {own: theirs for theirs, own in results.profile.stands_for.items()}
    printed, shown = [c.removesuffix(" published") for c in published if c.endswith(" published")], {}
    for one in dict.fromkeys([*bundle.sets, *printed]):
        if one in bundle.sets:
            shown[f"{one}, %"] = intervals(numbers, one)
        if f"{one} difference" in numbers:
            found = intervals(numbers, f"{one} difference", signed=True)
            shown[f"{one}, difference"] = [cell or "reference" for cell in found]
        if one in printed:
            cells = numbers[[f"{one} published accuracy", f"{one} published"]].to_numpy(dtype=float)
            said = [f"{mean:.1f} ({more:+.1f})".removesuffix(" (+nan)") for mean, more in cells]
            shown[f"{meant.get(one, one)}, published"] = [NOT_PRINTED if cell == "nan" else cell for cell in said]
    main = ~numbers["checkpoint"].str.endswith(BEST)
    own, plain, tables = routes[main], numbers[main], {spec.title: routes.assign(**shown)}
    if decodings:
        at = {one: {f"{s}, %": intervals(plain, f"{s} at {one}") for s in bundle.sets} for one in decodings}
        parts = [own.assign(decoding=one, **cells) for one, cells in at.items()]
        tables[f"{spec.title} At every decoding"] = pd.concat(parts)
    spent = [*(column for column in CONSUMERS.values() if plain[column].any()), *COSTS_SHOWN]
    costs = own.assign(**{column: plain[column].map(COUNT) for column in spent})
    tables["What these routes cost, and who consumed the labels"] = costs
    note = _note(replace(results, bundle=bundle), rows, spec.reference, published, missing)
    return Sheet(name, numbers, tables, note)


def _published(results: Results, rows: Sequence[str], reference: str | None, root: Path | None) -> pd.DataFrame:
    """What the paper prints for every row, on all of its sets; nothing for a profile that plays none of its families."""
    (published, family, sets), table = published_sets(results, root), {}
    for name, theirs in sets.items():
        cells = [published.cell(family, row, theirs) for row in rows]
        found = [reference and published.difference(family, row, reference, theirs) for row in rows]
        against = [one.value if one and row != reference else np.nan for one, row in zip(found, rows, strict=True)]
        table |= {f"{name} published": against, f"{name} published accuracy": [c.mean if c else np.nan for c in cells]}
        table[f"{name} published error"] = [cell.error if cell else np.nan for cell in cells]
        table[f"{name} published source"] = [cell.source if cell else NOT_PRINTED for cell in cells]
    return pd.DataFrame(table, index=range(len(rows)))


def published_sets(results: Results, root: Path | None = None) -> tuple[Published, str, dict[str, str]]:
    """What the papers print; the model family of paper A that the profile plays in claims.yaml, and the paper's sets by the name
    of the evaluation set that stands for each, or by their own: nothing for a profile that plays none."""
    published, stands_for = load_published(root), results.profile.stands_for
    played = {name: family for one in load_claims(root).families.values() for family, name in one.items()}
    family = played.get(results.name, "")
    return published, family, {stands_for.get(one, one): one for one in published.problems["A"] if family}


def labels_by_consumer(bundle: Bundle, checkpoint: str) -> dict[str, float]:
    """How many distinct labeled problems each model consumed on the way to a checkpoint, means over seeds, by CONSUMERS."""
    found = []
    for seed in seeds_of(bundle, checkpoint):
        own, used = own_line(bundle, checkpoint, seed), {who: set() for who in CONSUMERS}
        for name in ancestry(bundle, checkpoint, seed):
            record = bundle.records[name, seed]
            who = "itself" if name in own else record["resolved"]["role"].replace("split_teacher", "teacher")
            if "label_use" in record:
                used[who] |= set(record["label_use"]["problems"])
        found.append([len(problems) for problems in used.values()])
    return dict(zip(CONSUMERS.values(), np.mean(found, axis=0), strict=True))


def _note(results: Results, rows: Sequence[str], reference: str | None, published: pd.DataFrame, missing) -> str:
    """What stands under a table whose rows of the roles `missing` the profile can't make."""
    bundle, notes, said = results.bundle, load_report().notes, {"published": "", "best": "", "missing": ""}
    said["against"] = f", to {route_label(reference)}" if reference else ""
    sources = dict.fromkeys(s for c in published if c.endswith("source") for s in published[c] if s != NOT_PRINTED)
    if sources:
        against = f" (difference{said['against']})" if reference else ""
        said["published"] = f" Published: percent{against}, from {'; '.join(sources)}. {notes['scales']}"
    if best := [row.removesuffix(BEST) for row in rows if row.endswith(BEST)]:
        tried = bundle.decoded.loc[bundle.decoded["checkpoint"].isin(best), "decoding"].unique()
        won = [f"{route_label(n)}, {place}: {at}" for n in best for place, at in best_decodings(bundle, n).items()]
        said["best"] = notes["best"].format(tried=" / ".join(tried), won="; ".join(won)) + " "
    if missing:
        said["missing"] = notes["missing"].format(roles=" and ".join(f"`{role}`" for role in missing)) + " "
    about = {"profile": results.name, "seeds": seeds_of(bundle, rows[0]), "samples": results.profile.evaluation.samples}
    return notes["table"].format(**about, **said)


def families(profile: str, claims: Claims, root: Path | None = None) -> tuple[dict[str, Sheet], Sheet, list[str]]:
    """The model families side by side, as claims.yaml has them for this profile: each profile's table; all in one, whose
    numbers begin with `family` and `profile`; a sentence for each family that has no results yet. A StudyError where no family
    has any."""
    results, needed = results_of(profile, claims, root), set(load_study(root).tables[OF_FAMILIES].rows)
    found, missing, numbers, tables = {}, [], [], {}
    for family, name in claims.families[profile].items():
        if family in results and needed <= {checkpoint for checkpoint, _ in results[family].bundle.records}:
            sheet = study_table(results[family], OF_FAMILIES, root, "" if name == profile else f"../{name}/")
            found[name] = sheet
            numbers.append(sheet.numbers.assign(family=family, profile=name))
            tables |= {f"{family}, played by profile {name}: {title}": one for title, one in sheet.tables.items()}
        else:
            lacking = f"profile {name}, which has no results of {OF_FAMILIES} yet."
            missing.append(f"The {family} family is played by {lacking}")
    if not found:
        raise StudyError(f"no family has results of {OF_FAMILIES}: make them with `make study PROFILE={profile}`.")
    together = pd.concat(numbers, ignore_index=True)[["family", "profile", *numbers[0].columns[:-2]]]
    note = " ".join([*missing, *dict.fromkeys(sheet.note for sheet in found.values())])
    return found, Sheet("families", together, tables, note), missing

"""One job of a batch: one papermill call on a stage notebook, published as one run folder."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from s2d_lib.errors import StudyError
from s2d_lib.runs import DRIVER, find_run, open_run
from s2d_lib.study import STAGES, load_profile, project_root, resolve
from s2d_lib.warm_kernels import kernel_name

KERNEL = "python3"
READING = "**Reading.**"
# Notebooks that need no results of a study
FREE = ("00_the_principle", "01_the_loss", "10_base_models", "60_planner", "80_published_tables")
# What no two executions print alike: objects' addresses, and the names that pandas gives styled tables
MACHINES = re.compile(r"( object)? at 0x[0-9a-f]+|\bT_[0-9a-f]{5}(?=[_\W])")
# While a kernel imports, Python's garbage collector, at its usual 700 new objects, looks again and again at what is there
# to stay: a fifth of the time.
KERNEL_ARGUMENTS = ["--log-level=CRITICAL", "--IPKernelApp.exec_lines=import gc; gc.set_threshold(50_000, 20, 20)"]


def execute(notebook: Path, output: Path, parameters: dict) -> None:
    """Run a notebook with papermill. A cell that failed is a StudyError, with a StudyError's own sentence, or what was raised and
    where to look: the notebook as far as it came stays at `output`."""
    try:
        with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
            papermill.execute_notebook(
                notebook,
                output,
                parameters,
                kernel_name=kernel_name(KERNEL),
                progress_bar=False,
                cwd=notebook.parent,
                extra_arguments=KERNEL_ARGUMENTS,
                shutdown_kernel="immediate",  # a polite exit takes apart, for two seconds, what is to be thrown away
            )
    except PapermillExecutionError as error:
        if error.ename == "StudyError":
            raise StudyError(error.evalue) from None
        raise StudyError(
            f"{notebook.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue} (whole traceback in {output})"
        ) from None


def run_checkpoint(profile: str, checkpoint: str, seed: int, overrides: dict | None = None) -> str:
    """Make one run through its notebook, unless it is finished, and say in one line what came out. Bad parameters, missing
    parents, or whatever the notebook finds wrong are StudyErrors."""
    resolved = resolve(profile, checkpoint, seed, overrides)
    # What is finished another user may have made, where this one may not even lock.
    if find_run(resolved) or (run := open_run(profile, checkpoint, seed, overrides)).finished:
        return f"{checkpoint}, seed {seed}: finished before"
    parameters = {"profile": profile, "checkpoint": checkpoint, "seed": seed, "overrides": overrides or {}}
    executed = run.final.with_name(f".{checkpoint}.ipynb")
    os.environ[DRIVER] = "1"
    try:
        execute(project_root() / "notebooks" / STAGES[resolved.stage].notebook, executed, parameters)
    finally:
        del os.environ[DRIVER]
    if not run.path("record.json").is_file():
        raise StudyError(f"the notebook of {checkpoint!r} ended without a record; see {executed}.")
    strip_machine(executed)
    shutil.move(executed, run.path("notebook.ipynb"))
    run.publish()
    changed = f" with {json.dumps(overrides)}" if overrides else ""
    return f"{checkpoint}, seed {seed}{changed}: {headline(run.finished.record)}"


def headline(record: dict) -> str:
    """What a record says in one line."""
    parts = [f"{row['set']} {row['avg']:.3f} ± {row['se']:.3f}" for row in record.get("evaluation", [])]
    if "optimizer_steps" in record:
        parts.append(f"{record['optimizer_steps']} steps")
    if "sampled" in record:
        parts.append(f"{record['sampled']['tokens']} tokens sampled")
    return ", ".join([*parts, f"{record['seconds']:.0f} s"])


def strip_machine(path: Path, injected: bool = True) -> None:
    """Take out of an executed notebook what another execution of it would have otherwise: paths and times in its metadata,
    addresses and random names in its outputs, and on request the cell that papermill injected."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    if not injected:
        notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    tables: dict[str, str] = {}  # pandas' random names of styled tables

    def plain(found: re.Match) -> str:
        return tables.setdefault(found[0], f"T_table{len(tables)}") if found[0].startswith("T_") else ""

    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for name in ("papermill", "execution", *([] if cell.metadata.get("tags") else ["tags"])):
            cell.metadata.pop(name, None)
        if cell.get("outputs"):
            cell.outputs = json.loads(MACHINES.sub(plain, json.dumps(cell.outputs, ensure_ascii=False)))
    beside = path.with_name(f"{path.name}.stripped")
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def drop_readings(path: Path) -> None:
    """Take a notebook's readings out: markdown cells that begin with READING."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type != "markdown" or not c.source.startswith(READING)]
    nbformat.write(notebook, path)


def draw(profile: str | None = None) -> Iterator[str]:
    """Redraw tables and figures from committed results by running the analysis notebooks, a line each: a profile's, or those of
    every profile with results and the FREE ones. Raises a StudyError where there are no results to draw."""
    root = project_root()
    folders = [root / "figures" / profile] if profile else sorted(p.parent for p in root.glob("figures/*/results"))
    if not folders or not all((folder / "results").is_dir() for folder in folders):
        raise StudyError(f"there are no results in figures/{profile or ''}: make them with `make study`.")
    for name in (folder.name for folder in folders):
        yield from _draw_map(name) if load_profile(name).map else _draw_tables(name)
    yield from _draw_courses(profile)
    for name in FREE if profile is None else ():
        yield _drawn(name)


def _draw_map(profile: str) -> Iterator[str]:
    for name in ("02_the_map", *(["03_temperature"] if "opening" in load_profile(profile).map.parts else [])):
        yield _drawn(name, "" if profile == "map" else f"{profile}/{name}", profile=profile)


def _draw_tables(profile: str) -> Iterator[str]:
    """Run every analysis notebook that a profile has results for; a table that none of them writes gets the generic one."""
    # Here, since every job of the graph imports this module too, and these bring pandas and matplotlib.
    from s2d_lib.claims import load_claims
    from s2d_lib.report.looks import analyses_of, load_report
    from s2d_lib.report.pages import write_run_pages
    from s2d_lib.report.study_table import open_results
    from s2d_lib.report.tables import PAGES

    root = project_root()
    results = open_results(profile, root)
    pages = write_run_pages(results.bundle, profile, root / "figures" / profile)
    yield f"figures/{profile}/{PAGES}/: {len(pages)} pages"
    if unfinished := [table for table in load_profile(profile).tables if table not in results.profile.tables]:
        yield f"figures/{profile}: not all runs of {', '.join(unfinished)} are there yet"
    analyses, tables = analyses_of(profile, results.profile, load_claims())
    for name, analysis in analyses.items():
        yield _drawn(name, "" if profile == analysis.committed else f"{profile}/{name}", profile=profile)
    for table in tables:
        yield _drawn(load_report(root).generic, f"{profile}/{table}", profile=profile, table=table)


def _draw_courses(profile: str | None) -> Iterator[str]:
    """Run the notebook over every group of benchmarks whose results are all there; of one profile, over its groups."""
    from s2d_lib.claims import load_claims
    from s2d_lib.report.courses import complete
    from s2d_lib.report.looks import load_report

    root = project_root()
    name = load_report(root).courses
    for place, (group, spec) in enumerate(load_claims(root).courses.items()):
        if complete(spec, root) and (profile is None or profile in spec.profiles):
            yield _drawn(name, f"{group}/{name}" if place else "", group=group)


def _drawn(name: str, to: str = "", **parameters: object) -> str:
    """Run a notebook where its outputs are committed, so that it can be read on the web, and replace it whole; or into a place
    in figures/, without what its text says of the results that it is committed with."""
    notebook = project_root() / "notebooks" / f"{name}.ipynb"
    executed = project_root() / "figures" / f"{to}.ipynb" if to else notebook.with_name(f".{notebook.name}")
    executed.parent.mkdir(parents=True, exist_ok=True)
    execute(notebook, executed, parameters)
    if to:
        drop_readings(executed)
    strip_machine(executed, injected=bool(to))
    if not to:
        executed.replace(notebook)
    return f"figures/{to}.ipynb" if to else f"notebooks/{notebook.name}"


def make_bases(profile: str) -> None:
    """Pretrain every base model of a profile through notebook 10 and put them into the package; a profile that has nothing to
    pretrain is a StudyError."""
    if load_profile(profile).pretraining is None:
        raise StudyError(f"profile {profile!r} has no `pretraining` block: its base models are published checkpoints.")
    committed = profile == "micro"  # with whose outputs the notebook is committed
    _drawn("10_base_models", "" if committed else f"{profile}/10_base_models", profile=profile, remake=True)

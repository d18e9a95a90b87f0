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
from s2d_lib.runs import DRIVER, find_run, open_run, process
from s2d_lib.study import STAGES, load_profile, project_root, resolve
from s2d_lib.warm_kernels import kernel_name

KERNEL = "python3"
READING = "**Reading.**"
# What no two executions print alike: objects' addresses, and the names that pandas gives styled tables
MACHINES = re.compile(r"( object)? at 0x[0-9a-f]+|\bT_[0-9a-f]{5}(?=[_\W])")
# While a kernel imports, Python's garbage collector, at its usual 700 new objects, looks again and again at what is there
# to stay: a fifth of the time.
KERNEL_ARGUMENTS = ["--log-level=CRITICAL", "--IPKernelApp.exec_lines=import gc; gc.set_threshold(50_000, 20, 20)"]


def execute(notebook: Path, output: Path, parameters: dict) -> None:
    """Run a notebook with papermill; on failure the notebook as far as it came stays at `output`.

    Raises:
        StudyError: When a cell failed: a StudyError's own sentence, or what was raised and where to look.
    """
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
    """Make one run through its notebook, unless it is finished.

    Returns:
        One line that says what came out.

    Raises:
        StudyError: Bad parameters, missing parents, or whatever the notebook found wrong.
    """
    resolved = resolve(profile, checkpoint, seed, overrides)
    # What is finished another user may have made, where this one may not even lock.
    if find_run(resolved) or (run := open_run(profile, checkpoint, seed, overrides)).finished:
        return f"{checkpoint}, seed {seed}: finished before"
    parameters = {"profile": profile, "checkpoint": checkpoint, "seed": seed, "overrides": overrides or {}}
    executed = run.final.with_name(f".{checkpoint}.ipynb")
    os.environ[DRIVER] = process()
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
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        if cell.get("outputs"):
            cell.outputs = json.loads(MACHINES.sub(plain, json.dumps(cell.outputs, ensure_ascii=False)))
    beside = path.with_name(f"{path.name}.stripped")
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def draw(profile: str | None = None) -> list[str]:
    """Redraw tables and figures from committed results by running the analysis notebooks.

    Args:
        profile: Only this profile's; without one, those of every profile with results, and the notebooks that need no
            results of a study (the principle, the loss, the base models, the planner, the published tables).

    Returns:
        One line a notebook.

    Raises:
        StudyError: When there are no results to draw.
    """
    root = project_root()
    folders = [root / "figures" / profile] if profile else sorted(p.parent for p in root.glob("figures/*/results"))
    if not folders or not all((folder / "results").is_dir() for folder in folders):
        raise StudyError(f"there are no results in figures/{profile or ''}: make them with `make study`.")
    done = [line for folder in folders for line in _draw_results(root, folder)]
    done += _draw_courses(root, profile)
    if profile is None:
        done += [
            _in_place(root / "notebooks" / f"{name}.ipynb", {})
            for name in ("00_the_principle", "01_the_loss", "10_base_models", "60_planner", "80_published_tables")
        ]
    return done


def _draw_results(root: Path, folder: Path) -> Iterator[str]:
    """Run every analysis notebook that a profile has results for; a table that none of them writes gets the generic one."""
    if chart := load_profile(folder.name).map:
        for name in ("02_the_map", *(["03_temperature"] if "opening" in chart.parts else [])):
            path, parameters = root / "notebooks" / f"{name}.ipynb", {"profile": folder.name}
            in_place = folder.name == "map"  # with whose results the notebooks are committed
            yield _in_place(path, parameters) if in_place else _copy(path, folder / path.name, parameters)
        return
    # Here, since every job of the graph imports this module too, and these bring pandas and matplotlib.
    from s2d_lib.claims import load_claims
    from s2d_lib.report.looks import analyses_of, load_report
    from s2d_lib.report.pages import write_run_pages
    from s2d_lib.report.study_table import open_results
    from s2d_lib.report.tables import PAGES

    name, results = folder.name, open_results(folder.name, root)
    pages = write_run_pages(results.bundle, name, folder)
    yield f"figures/{name}/{PAGES}/: {len(pages)} pages"
    if unfinished := [table for table in load_profile(name).tables if table not in results.profile.tables]:
        yield f"figures/{name}: not all runs of {', '.join(unfinished)} are there yet"
    analyses, tables = analyses_of(name, results.profile, load_claims())
    for notebook, analysis in analyses.items():
        path = root / "notebooks" / f"{notebook}.ipynb"
        if name == analysis.committed:
            yield _in_place(path, {"profile": name})
        else:
            yield _copy(path, folder / path.name, {"profile": name})
    for table in tables:
        path = root / "notebooks" / f"{load_report(root).generic}.ipynb"
        yield _copy(path, folder / f"{table}.ipynb", {"profile": name, "table": table})


def _draw_courses(root: Path, profile: str | None) -> Iterator[str]:
    """Run the notebook over every group of benchmarks whose results are all there; of one profile, over its groups."""
    from s2d_lib.claims import load_claims
    from s2d_lib.report.courses import complete
    from s2d_lib.report.looks import load_report

    path = root / "notebooks" / f"{load_report(root).courses}.ipynb"
    for place, (group, spec) in enumerate(load_claims(root).courses.items()):
        if complete(spec, root) and (profile is None or profile in spec.profiles):
            folder = root / "figures" / group
            yield _copy(path, folder / path.name, {"group": group}) if place else _in_place(path, {"group": group})
            yield _copy(path, folder / f"{path.stem}_seconds.ipynb", {"group": group, "seconds": True})


def _copy(notebook: Path, executed: Path, parameters: dict) -> str:
    """Run a notebook into figures/<profile>, without what its text says of the results that it is committed with."""
    executed.parent.mkdir(parents=True, exist_ok=True)
    execute(notebook, executed, parameters)
    drop_readings(executed)
    strip_machine(executed)
    return f"figures/{executed.parent.name}/{executed.name}"


def drop_readings(path: Path) -> None:
    """Take a notebook's readings out: markdown cells that begin with READING."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type != "markdown" or not c.source.startswith(READING)]
    nbformat.write(notebook, path)


def _in_place(notebook: Path, parameters: dict) -> str:
    """Run a notebook whose outputs are committed, so that it can be read on the web, and replace it whole."""
    executed = notebook.with_name(f".{notebook.name}")
    execute(notebook, executed, parameters)
    strip_machine(executed, injected=False)
    executed.replace(notebook)
    return f"notebooks/{notebook.name}"


def make_bases(profile: str) -> None:
    """Pretrain every base model of a profile through notebook 10 and put them into the package.

    Raises:
        StudyError: When the profile has nothing to pretrain.
    """
    settings = load_profile(profile)
    if settings.pretraining is None:
        raise StudyError(f"profile {profile!r} has no `pretraining` block: its base models are published checkpoints.")
    notebook, parameters = project_root() / "notebooks" / "10_base_models.ipynb", {"profile": profile, "remake": True}
    if profile == "micro":  # whose outputs the notebook is committed with
        _in_place(notebook, parameters)
    else:
        _copy(notebook, project_root() / "figures" / profile / notebook.name, parameters)

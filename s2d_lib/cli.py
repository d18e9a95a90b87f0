"""The command `s2d`: run one checkpoint or a whole study, redraw its figures, or say beforehand what it takes."""

import argparse
import contextlib
import errno
import fcntl
import getpass
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import project_root

EXECUTORS = ("slurm", "kubernetes")
# What a user can mend about a place that can't be written into
PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run a command; a StudyError becomes one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="s2d", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="make one run through its notebook")
    run.add_argument("--profile", default="micro")
    run.add_argument("--checkpoint", required=True)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--overrides", default="{}", help="JSON, nested like the profile's file")

    study = commands.add_parser("study", help="make every run of a profile, its table and its figures")
    study.add_argument("--profile", default="micro")
    study.add_argument("--cores", type=int, default=2, help="jobs side by side")
    study.add_argument("--regime", action="store_true", help="the profile's regime check instead of its study")
    study.add_argument(
        "--executor", choices=EXECUTORS, help="make the runs on a cluster (executors/<name>/config.yaml)"
    )
    study.add_argument("--dry-run", action="store_true", help="only print what would be made, and what it takes")

    results = commands.add_parser("results", help="collect finished runs into figures/<profile>/results")
    results.add_argument("--profile", default="micro")
    results.add_argument("--regime", action="store_true", help="of the regime check")
    results.add_argument("--so-far", action="store_true", help="whole seeds, of a map part by part; drop the rest")

    figures = commands.add_parser("figures", help="redraw figures from committed results")
    figures.add_argument("--profile", help="only this profile's; all by default")

    check = commands.add_parser("check", help="validate a profile and all that it needs here, without training")
    check.add_argument("--profile", default="micro")
    check.add_argument("--pair", metavar="CHECKPOINT", help="does OPD pay for this checkpoint's student and teacher?")
    check.add_argument("--seed", type=int, default=0, help="of the pair's runs")
    check.add_argument("--prompts", type=int, default=32, help="of the label pool, for the pair")

    plan = commands.add_parser("plan", help="what a profile takes: tokens, FLOPs, GPU hours, memory, disk")
    plan.add_argument("--profile", default="qwen3")
    plan.add_argument("--gpu", help="a name in s2d_lib/plan/gpus.yaml; without it the profile's `cluster.gpu`")
    plan.add_argument("--utilisation", type=float, default=0.4, help="share of the GPU's peak that is reached")
    plan.add_argument("--write", action="store_true", help="also write it into figures/<profile>/plan.*")
    plan.add_argument(
        "--pilot", nargs="?", const="", metavar="CHECKPOINT",
        help="measure two steps at full length here, by default of the training that holds most",
    )  # fmt: skip

    base = commands.add_parser("base", help="pretrain the released base models again (notebook 10)")
    base.add_argument("--profile", default="micro")

    export = commands.add_parser("export", help="a trained checkpoint as a model folder with its card")
    export.add_argument("--profile", default="micro")
    export.add_argument("--checkpoint", required=True)
    export.add_argument("--seed", type=int, default=0)
    export.add_argument("--to", required=True, help="a folder that is not there yet")

    chosen = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a locale without a ± must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # jsonschema, under papermill, checks internationalised addresses with it where it is installed (JupyterLab does). No
    # notebook has one, and building its grammar takes longer than importing everything else that a job's driver needs.
    sys.modules.setdefault("rfc3987_syntax", None)
    try:
        _have_a_home()
        if os.environ.get("S2D_HOME"):  # notebooks and Snakemake run in other folders than this
            os.environ["S2D_HOME"] = str(project_root())
        return COMMANDS[chosen.command](chosen)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in PLACE:
            raise
        from s2d_lib.runs import runs_root

        remedy = "free some space, or let S2D_RUNS name a folder that you may write into"
        print(f"error: {error.filename or runs_root()}: {error.strerror}: {remedy}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        return 130


def _have_a_home() -> None:
    try:
        Path.home()
    except RuntimeError:
        raise StudyError(
            "there is no home folder, where Jupyter and Snakemake keep their files: let HOME name a folder that you may "
            "write into."
        ) from None
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have them: Snakemake and torch ask for one
        os.environ["LOGNAME"] = str(os.getuid())


def _run(chosen) -> int:
    from s2d_lib.batch import run_checkpoint

    try:
        overrides = json.loads(chosen.overrides, object_pairs_hook=_each_once)
    except ValueError:
        raise StudyError(f"--overrides must be JSON that gives a key once, given {chosen.overrides!r}.") from None
    print(run_checkpoint(chosen.profile, chosen.checkpoint, chosen.seed, overrides), flush=True)
    return 0


def _each_once(pairs: list) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _study(chosen) -> int:
    from s2d_lib.pipeline import jobs, keep_markers, regime_jobs
    from s2d_lib.runs import runs_root
    from s2d_lib.warm_kernels import warm_kernels

    if chosen.cores < 1:
        raise StudyError(f"--cores must be at least 1, given {chosen.cores}.")
    root = project_root()
    if not os.access(root, os.W_OK):
        raise StudyError(
            f"{root} can't be written into, where Snakemake and figures/ have their place: work in a copy."
        )
    found = (regime_jobs if chosen.regime else jobs)(chosen.profile)  # bad parameters are said here, in one sentence
    if chosen.dry_run:
        keep_markers(found)
        _print_graph(chosen.profile, found)
    with _only_one(runs_root()), contextlib.nullcontext() if chosen.dry_run or chosen.executor else warm_kernels():
        status = subprocess.run(snakemake_command(chosen, root), check=False).returncode
    if status == 0 and not (chosen.dry_run or chosen.regime):
        folder = root / "figures" / chosen.profile
        _print_first_table(chosen.profile, folder)
        print(
            f"Tables and plots: {folder.relative_to(root)}/ · runs and their notebooks: {runs_root() / chosen.profile}/"
        )
    return status


def snakemake_command(chosen: argparse.Namespace, root: Path) -> list[str]:
    """Snakemake on the project's graph, as `s2d study` was told to run it.

    Raises:
        StudyError: The executor's plugin is not installed.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile"), "--directory", str(root)]
    # The lock of `_only_one` is freed by the system when its holder dies, unlike Snakemake's own, which survives kill -9.
    command += ["--nolock", "--rerun-triggers", "mtime", "--rerun-incomplete", "--quiet", "rules", "host"]
    settings = [f"profile={chosen.profile}.yaml"] + (["regime=1"] if chosen.regime else [])
    if chosen.executor:
        if importlib.util.find_spec(f"snakemake_executor_plugin_{chosen.executor}") is None:
            raise StudyError(
                f"Snakemake has no executor {chosen.executor!r} here: install snakemake-executor-plugin-{chosen.executor}."
            )
        command += ["--workflow-profile", str(root / "executors" / chosen.executor)]
        settings.append("ask=1")
    else:
        command += ["--cores", str(chosen.cores), "--resources", "gpu_run=1"]
    return [*command, *(["--dry-run"] if chosen.dry_run else []), "--config", *settings]


def _print_graph(profile, found):
    from s2d_lib.plan import resources
    from s2d_lib.report.routes import graph_summary, graph_table
    from s2d_lib.report.tables import markdown

    needs = resources(profile, {key: job.resolved for key, job in found.items()})
    print(markdown(graph_table(found, needs)))
    print(graph_summary(found, needs), flush=True)


def _print_first_table(profile, folder):
    """Without the links of its md, which a terminal can't follow."""
    from s2d_lib.report.map import open_chart, routes_table
    from s2d_lib.report.tables import LINK, markdown
    from s2d_lib.study import load_profile

    settings = load_profile(profile)
    if settings.map:
        chart = open_chart(profile)
        part = next(iter(chart.parts))
        print(chart.map.parts[part].title)
        print(markdown(routes_table(chart, part)))
        return
    print(LINK.sub(r"\1", (folder / f"{settings.tables[0]}.md").read_text(encoding="utf-8")))


@contextlib.contextmanager
def _only_one(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".study.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"another `s2d study` is running on {folder}: wait for it or stop it.") from None
        yield


def _results(chosen) -> int:
    from s2d_lib.pipeline import blocks, placed_on_map, regime_jobs, regime_runs, regime_trials
    from s2d_lib.report.regime import write_regime, write_trials
    from s2d_lib.results.bundle import collect
    from s2d_lib.results.map import collect_map
    from s2d_lib.runs import find_run
    from s2d_lib.study import load_profile

    runs: dict = {}
    for block in [regime_jobs(chosen.profile)] if chosen.regime else blocks(chosen.profile):
        found = {key: find_run(job.resolved) for key, job in block.items()}
        missing = next((block[key].resolved for key, run in found.items() if run is None), None)
        if missing is None:
            runs |= found
        elif not chosen.so_far:
            raise StudyError(f"the run {missing.checkpoint!r}, seed {missing.seed}, is missing: `make study`.")
    if not runs:
        raise StudyError(f"no seed of profile {chosen.profile!r} has all its runs yet: `make study`.")
    folder = project_root() / "figures" / chosen.profile
    if chosen.regime:
        regime, tried = load_profile(chosen.profile).regime, regime_trials(chosen.profile)
        checked = [run for seed in regime.seeds for run in regime_runs(chosen.profile, seed)]
        write_regime([(cell, runs[resolved.hash]) for cell, resolved in checked], folder / "regime.csv")
        write_trials([(trial, runs[trial.resolved.hash]) for trial in tried], folder / "trials.csv")
    elif load_profile(chosen.profile).map:
        whole = [block for block in placed_on_map(chosen.profile) if all(r.hash in runs for r in block[1].values())]
        found = [(point, seed, runs[resolved.hash]) for seed, placed in whole for point, resolved in placed.items()]
        collect_map(found, runs.values(), folder / "results")
    else:
        collect(list(runs.values()), folder / "results")
    return 0


def _figures(chosen) -> int:
    from s2d_lib.batch import draw

    for line in draw(chosen.profile):
        print(line, flush=True)
    return 0


def _check(chosen) -> int:
    if chosen.pair:
        return _check_pair(chosen)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the Hub's client is imported
    from s2d_lib.check import check

    problems = 0
    for line in check(chosen.profile):
        print(line, flush=True)
        problems += not line.ok
    return 1 if problems else 0


def _check_pair(chosen) -> int:
    from s2d_lib.check.pair import read_pair
    from s2d_lib.report.tables import markdown
    from s2d_lib.study import resolve

    pair = read_pair(resolve(chosen.profile, chosen.pair, chosen.seed), chosen.prompts)
    print(markdown(pair.table), pair, sep="\n\n")
    return 0


def _plan(chosen) -> int:
    from s2d_lib.plan import plan
    from s2d_lib.report.plan import figure, summary, tables_of, uncertainty, write_plan
    from s2d_lib.report.tables import markdown

    found = plan(chosen.profile, chosen.gpu, chosen.utilisation)
    if chosen.pilot is not None:
        from s2d_lib.check.pilot import pilot

        measured = pilot(found, chosen.pilot or None)
        print(markdown(measured.map(lambda value: value if isinstance(value, str) else figure(value)).to_frame().T))
        return 0
    print(summary(found))
    for title, table in tables_of(found).items():
        print(f"\n{title}\n\n{markdown(table)}")
    print("\nHow sure", *uncertainty(found), sep="\n- ")
    if chosen.write:
        write_plan(found, project_root() / "figures" / chosen.profile)
        print(f"\nWritten into figures/{chosen.profile}/: plan.*")
    return 0


def _base(chosen) -> int:
    from s2d_lib.batch import make_bases

    make_bases(chosen.profile)
    return 0


def _export(chosen) -> int:
    from s2d_lib.export import export

    print(export(chosen.profile, chosen.checkpoint, chosen.seed, Path(chosen.to)), flush=True)
    return 0


COMMANDS = {
    "run": _run,
    "study": _study,
    "results": _results,
    "figures": _figures,
    "check": _check,
    "plan": _plan,
    "base": _base,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())

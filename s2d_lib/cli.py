"""The command `s2d`: run one checkpoint or a whole study, redraw its figures, export a model, or say beforehand what it takes."""

import argparse
import contextlib
import errno
import getpass
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import load_profile, project_root

# Each command imports what it alone needs: one that trains nothing must not wait for torch.

# What a user can mend about a place that can't be written into
PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run a command; a StudyError becomes one line on stderr and exit code 1."""
    chosen = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a locale without a ± must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # jsonschema, under papermill, checks internationalised addresses with it where it is installed (JupyterLab does). No
    # notebook has one, and building its grammar takes longer than importing everything else that a job's driver needs.
    sys.modules.setdefault("rfc3987_syntax", None)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have them: Snakemake and torch ask for one
        os.environ["LOGNAME"] = str(os.getuid())
    try:
        if os.environ.get("S2D_HOME"):  # notebooks and Snakemake run in other folders than this
            os.environ["S2D_HOME"] = str(project_root())
        return chosen.do(chosen) or 0
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


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    whole = argparse.ArgumentParser(prog="s2d", description=__doc__)
    commands = whole.add_subparsers(required=True)

    def command(do, does: str, profile: str | None = "micro", run: bool = False, **given: object):
        one = commands.add_parser(do.__name__.removeprefix("_"), help=does)
        one.set_defaults(do=do, **given)
        one.add_argument("--profile", default=profile, help="a file in params/")
        if run:
            one.add_argument("--checkpoint", required=True)
            one.add_argument("--seed", type=int, default=0)
        return one.add_argument

    run = command(_run, "make one run through its notebook", run=True)
    run("--overrides", default="{}", help="JSON, nested like the profile's file")
    study = command(_study, "make every run of a profile, its table and its figures", method=None)
    study("--cores", type=int, default=2, help="jobs side by side")
    study("--regime", action="store_true", help="the profile's regime check instead of its study")
    cluster = "make the runs on a cluster (executors/<name>/config.yaml)"
    study("--executor", choices=("slurm", "kubernetes"), help=cluster)
    study("--dry-run", action="store_true", help="only print what would be made, and what it takes")
    study("--from", dest="bundle", type=Path, metavar="FILE", help="first take over the runs of a bundle")
    bundle = command(_bundle, "all runs of a finished study as one file")
    bundle("--to", required=True, type=Path, metavar="FILE", help="a tar file for `s2d study --from`")
    results = command(_results, "collect finished runs into figures/<profile>/results")
    results("--regime", action="store_true", help="of the regime check")
    results("--so-far", action="store_true", help="whole seeds, of a map part by part; drop the rest")
    command(_figures, "redraw figures from committed results, by default of every profile", None)
    commands.add_parser("report", help="write the reproduction's report, and the cards").set_defaults(do=_report)
    first = "a student before and after training, and the default study's table; trains nothing"
    commands.add_parser("look", help=first).set_defaults(do=_look)
    plain = {"regime": False, "executor": None, "dry_run": False, "bundle": None}
    compare = command(_compare, "a method beside GRPO, OPD and the bridge on a few cells of the map", "map", **plain)
    compare("--method", required=True, metavar="CHECKPOINT", help="that the method's file declares")
    compare("--cores", type=int, default=2, help="jobs side by side")
    check = command(_check, "validate a profile and all that it needs here, without training")
    check("--pair", metavar="CHECKPOINT", help="does OPD pay for this checkpoint's student and teacher?")
    check("--layers", metavar="CHECKPOINT", help="which layers can a student of this checkpoint's model do without?")
    check("--count", type=int, default=12, help="of layers, the cheapest of those that are left each time")
    check("--seed", type=int, default=0, help="of the pair's runs")
    check("--prompts", type=int, default=32, help="of the label pool, for the pair and the layers")
    plan = command(_plan, "what a profile takes: tokens, FLOPs, GPU hours, memory, disk", "qwen3")
    plan("--gpu", help="a name in s2d_lib/plan/gpus.yaml; without it the profile's `cluster.gpu`")
    plan("--utilisation", type=float, default=0.4, help="share of the GPU's peak that is reached")
    plan("--write", action="store_true", help="also write it into figures/<profile>/plan.*")
    measured = "measure two steps at full length here, by default of the training that holds most"
    plan("--pilot", nargs="?", const="", metavar="CHECKPOINT", help=measured)
    command(_base, "pretrain the released base models again (notebook 10)")
    export = command(_export, "a trained checkpoint as a model folder with its card", run=True)
    export("--to", required=True, type=Path, help="a folder that is not there yet")
    return whole


def _run(chosen):
    from s2d_lib.batch import run_checkpoint

    def each_once(pairs: list) -> dict:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    try:
        overrides = json.loads(chosen.overrides, object_pairs_hook=each_once)
    except ValueError:
        raise StudyError(f"--overrides must be JSON that gives a key once, given {chosen.overrides!r}.") from None
    print(run_checkpoint(chosen.profile, chosen.checkpoint, chosen.seed, overrides), flush=True)


def _study(chosen) -> int:
    from s2d_lib.pipeline import jobs, keep_markers, regime_jobs
    from s2d_lib.runs import made_elsewhere, runs_root

    found = (regime_jobs if chosen.regime else jobs)(chosen.profile)  # bad parameters are said here, in one sentence
    if chosen.dry_run:
        from s2d_lib.plan import resources
        from s2d_lib.report.plan import graph_summary, graph_table
        from s2d_lib.report.tables import markdown

        keep_markers(found)
        needs = resources(chosen.profile, {key: job.resolved for key, job in found.items()})
        print(markdown(graph_table(found, needs)), graph_summary(found, needs), sep="\n", flush=True)
    else:
        for model in {job.resolved.model.model for job in found.values() if job.resolved.stage == "base"}:
            made_elsewhere(model)
    root, runs, status = project_root(), runs_root(), _make(chosen)
    if status == 0 and not (chosen.dry_run or chosen.regime):
        folder = root / "figures" / chosen.profile
        _print_first_table(chosen.profile, folder)
        print(f"Tables and plots: {folder.relative_to(root)}/ · runs and their notebooks: {runs / chosen.profile}/")
    return status


def _make(chosen) -> int:
    """Let Snakemake make what was asked for; its exit code."""
    from s2d_lib.release import unpack
    from s2d_lib.runs import lock, runs_root
    from s2d_lib.warm_kernels import warm_kernels

    if chosen.cores < 1:
        raise StudyError(f"--cores must be at least 1, given {chosen.cores}.")
    if chosen.dry_run and chosen.bundle:
        raise StudyError("--from puts runs into their place, and --dry-run makes nothing: give one of them.")
    root, runs = project_root(), runs_root()
    if not os.access(root, os.W_OK):
        raise StudyError(
            f"{root} can't be written into, where Snakemake and figures/ have their place: work in a copy."
        )
    runs.mkdir(parents=True, exist_ok=True)
    busy = f"another `s2d study` is running on {runs}: wait for it or stop it."
    cold = chosen.dry_run or chosen.executor
    with lock(runs / "study", busy):
        if chosen.bundle:
            print(unpack(chosen.profile, chosen.bundle), flush=True)
        with contextlib.nullcontext() if cold else warm_kernels() as environment:
            return subprocess.run(snakemake_command(chosen, root), check=False, env=environment).returncode


def _compare(chosen) -> int:
    from s2d_lib.pipeline import method_jobs, method_points
    from s2d_lib.report.map import open_chart
    from s2d_lib.report.methods import methods_sheet, with_method
    from s2d_lib.results.map import collect_map
    from s2d_lib.runs import find_run

    profile, method = chosen.profile, chosen.method
    made = method_jobs(profile, method)
    chart = open_chart(profile)  # what the method is compared with: without it, nothing is trained
    if status := _make(chosen):
        return status
    runs = {key: find_run(job.resolved) for key, job in made.items()}
    placed = [(point, seed, runs[r.hash]) for (seed, point), r in method_points(profile, method).items()]
    sheet = methods_sheet(with_method(chart, collect_map(placed, runs.values()), method), profile, [method], method)
    folder = project_root() / "figures" / profile / "methods"
    sheet.write(folder)
    print((folder / f"{method}.md").read_text(encoding="utf-8"), f"Written into {folder}: {method}.*", sep="\n")
    return 0


def snakemake_command(chosen: argparse.Namespace, root: Path) -> list[str]:
    """Snakemake on the project's graph, as `s2d study` was told to run it; an executor that is not installed is a StudyError."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile"), "--directory", str(root)]
    # The lock of `_make` is freed by the system when its holder dies, unlike Snakemake's own, which survives kill -9.
    command += ["--nolock", "--rerun-triggers", "mtime", "--rerun-incomplete", "--quiet", "rules", "host"]
    settings = [f"profile={chosen.profile}.yaml"] + (["regime=1"] if chosen.regime else [])
    settings += [f"method={chosen.method}"] if chosen.method else []
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


def _print_first_table(profile, folder):
    from s2d_lib.report.map import open_chart, routes_table
    from s2d_lib.report.tables import LINK, markdown

    settings = load_profile(profile)
    if settings.map:
        chart = open_chart(profile)
        part = next(iter(chart.parts))
        print(chart.map.parts[part].title, markdown(routes_table(chart, part)), sep="\n")
    else:  # without the links of its md, which a terminal can't follow
        print(LINK.sub(r"\1", (folder / f"{settings.tables[0]}.md").read_text(encoding="utf-8")))


def _results(chosen):
    from s2d_lib import look
    from s2d_lib.pipeline import blocks, placed_on_map, regime_jobs, regime_runs, regime_trials
    from s2d_lib.report.regime import write_regime, write_trials
    from s2d_lib.results.bundle import collect
    from s2d_lib.results.map import collect_map
    from s2d_lib.runs import find_run

    profile, runs = chosen.profile, {}
    for block in [regime_jobs(profile)] if chosen.regime else blocks(profile):
        found = {key: find_run(job.resolved) for key, job in block.items()}
        missing = next((block[key].resolved for key, run in found.items() if run is None), None)
        if missing is None:
            runs |= found
        elif not chosen.so_far:
            raise StudyError(f"the run {missing.checkpoint!r}, seed {missing.seed}, is missing: `make study`.")
    if not runs:
        raise StudyError(f"no seed of profile {profile!r} has all its runs yet: `make study`.")
    folder, settings = project_root() / "figures" / profile, load_profile(profile)
    if chosen.regime:
        checked = [run for seed in settings.regime.seeds for run in regime_runs(profile, seed)]
        write_regime([(cell, runs[resolved.hash]) for cell, resolved in checked], folder / "regime.csv")
        tried = [(trial, runs[trial.resolved.hash]) for trial in regime_trials(profile)]
        write_trials(tried, folder / "trials.csv")
    elif settings.map:
        whole = [block for block in placed_on_map(profile) if all(r.hash in runs for r in block[1].values())]
        found = [(point, seed, runs[resolved.hash]) for seed, placed in whole for point, resolved in placed.items()]
        collect_map(found, runs.values()).write(folder / "results")
        if profile == look.PROFILE and (shown := look.shown()) and shown.hash in runs:
            look.keep(runs[shown.hash])
    else:
        collect(list(runs.values()), folder / "results")


def _bundle(chosen):
    from s2d_lib.release import pack

    print(pack(chosen.profile, chosen.to))


def _look(chosen):
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the Hub's client is imported
    from s2d_lib.look import look

    print(look())


def _figures(chosen):
    from s2d_lib.batch import draw

    for line in draw(chosen.profile):
        print(line, flush=True)


def _report(chosen):
    from s2d_lib.report.cards import write_cards
    from s2d_lib.report.reproduction import write_report

    root = project_root()
    print(*write_cards(root, root / "docs" / "cards"), *write_report(root), sep="\n")


def _check(chosen) -> int:
    if chosen.pair:
        from s2d_lib.check.pair import read_pair
        from s2d_lib.report.tables import markdown
        from s2d_lib.study import resolve

        pair = read_pair(resolve(chosen.profile, chosen.pair, chosen.seed), chosen.prompts)
        print(markdown(pair.table), pair, sep="\n\n")
        return 0
    if chosen.layers:
        from s2d_lib.check.layers import read_layers
        from s2d_lib.study import resolve

        print(
            read_layers(resolve(chosen.profile, chosen.layers, chosen.seed), chosen.count, chosen.prompts).to_csv(),
            end="",
        )
        return 0
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the Hub's client is imported
    from s2d_lib.check import check

    problems = 0
    for line in check(chosen.profile):
        print(line, flush=True)
        problems += not line.ok
    return int(problems > 0)


def _plan(chosen):
    from s2d_lib.plan import plan
    from s2d_lib.report.plan import figure, summary, tables_of, uncertainty, write_plan
    from s2d_lib.report.tables import markdown

    found = plan(chosen.profile, chosen.gpu, chosen.utilisation)
    if chosen.pilot is not None:
        from s2d_lib.check.pilot import pilot

        measured = pilot(found, chosen.pilot or None)
        print(markdown(measured.map(lambda value: value if isinstance(value, str) else figure(value)).to_frame().T))
        return
    print(summary(found))
    for title, table in tables_of(found).items():
        print(f"\n{title}\n\n{markdown(table)}")
    print("\nHow sure", *uncertainty(found), sep="\n- ")
    if chosen.write:
        write_plan(found, project_root() / "figures" / chosen.profile)
        print(f"\nWritten into figures/{chosen.profile}/: plan.*")


def _base(chosen):
    from s2d_lib.batch import make_bases

    make_bases(chosen.profile)


def _export(chosen):
    """A finished run's model and its card, whole or not at all; adapters are merged into what they lie over."""
    import pandas as pd

    from s2d_lib.models.policy import load_policy, save_policy
    from s2d_lib.report.pages import model_card
    from s2d_lib.results.bundle import Bundle
    from s2d_lib.runs import Run, command_for, find_run, state
    from s2d_lib.stages.inputs import weights_of
    from s2d_lib.study import lineage
    from s2d_lib.study.settings import Hardware

    (profile, checkpoint, seed), to = (chosen.profile, chosen.checkpoint, chosen.seed), chosen.to
    line = lineage(profile, checkpoint, seed)
    resolved = line[checkpoint]
    if to.exists():
        raise StudyError(f"{to} is there already: name another folder, or delete it first.")
    if resolved.stage in ("base", "teacher_rollouts"):
        raise StudyError(
            f"{checkpoint!r} is stage {resolved.stage!r}, which trains no model of its own: export a trained checkpoint."
        )
    run = Run(resolved, find_run(resolved))
    if run.finished is None:
        what = f"the run {checkpoint!r} (profile {profile}, seed {seed}) {state(resolved)}"
        raise StudyError(f"{what}: `{command_for(resolved)}` makes it.")
    made = [run.finished, *(Run(one).parent(kind) for one in line.values() for kind in one.parents)]
    bundle = Bundle(pd.DataFrame(), pd.DataFrame(), {(one.name, seed): one.record for one in made})
    card, weights = model_card(bundle, profile, checkpoint, seed), weights_of(run)
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(beside, ignore_errors=True)
    if weights.adapters:
        save_policy(load_policy(resolved.model, Hardware(), *weights), beside)
    else:
        shutil.copytree(weights.place, beside)
    (beside / "README.md").write_text(card, encoding="utf-8")
    beside.rename(to)
    print(to, flush=True)


if __name__ == "__main__":
    sys.exit(main())

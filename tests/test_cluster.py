"""The graph of every profile, what its runs ask a cluster for, and Snakemake's Slurm executor on a Slurm that is not one."""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2d_lib.cli import main, snakemake_command
from s2d_lib.errors import StudyError
from s2d_lib.pipeline import jobs
from s2d_lib.plan import of_snakemake, plan, resources
from s2d_lib.study import load_profile, load_study, profile_names, resolve
from s2d_lib.study.graph import table_in
from tests.conftest import HEADLINE, TINY, copy_project

HAS_SLURM, HAS_KUBERNETES = (
    importlib.util.find_spec(f"snakemake_executor_plugin_{name}") is not None for name in ("slurm", "kubernetes")
)
FAKES = {
    "sbatch": """#!/bin/sh
        printf '%s\\n' "$*" >> "$FAKE_SLURM/calls"
        number=$(wc -l < "$FAKE_SLURM/calls" | tr -d ' ')
        for word; do last=$word; done
        (SLURM_JOB_ID=$number sh -c "${last#--wrap=}" > "$FAKE_SLURM/$number.log" 2>&1
         test $? -eq 0 && state=COMPLETED || state=FAILED
         echo "$number|$state" >> "$FAKE_SLURM/states") > /dev/null 2>&1 &
        echo "$number" """,
    "srun": """#!/bin/sh
        while [ "${1#-}" != "$1" ]; do shift; done
        exec "$@" """,
    "sacct": """#!/bin/sh
        cat "$FAKE_SLURM/states" 2> /dev/null || true""",
    **dict.fromkeys(("sinfo", "squeue", "scontrol", "scancel", "sacctmgr"), "#!/bin/sh\nexit 0"),
}


def asked_of(profile: str) -> tuple[dict, dict]:
    """Jobs of a profile, and what each needs."""
    found = jobs(profile)
    return found, resources(profile, {key: job.resolved for key, job in found.items()})


@pytest.mark.parametrize("name", profile_names())
def test_the_graph_of_every_profile_shares_ancestors_and_asks_for_what_a_scheduler_understands(runs, name):
    (found, needs), settings, study = asked_of(name), load_profile(name), load_study()
    order = {key: place for place, key in enumerate(found)}
    assert all(order[parent] < order[key] for key, job in found.items() for parent in job.parents)
    named = [(job.resolved.checkpoint, job.resolved.seed) for job in found.values()]
    assert len(set(named)) == len(named) or settings.map  # one run, however many need it; on a map in several forms
    rows = {row for table in settings.tables for row in table_in(study, table, settings, name)[0].rows}
    assert {(row, seed) for row in rows for seed in settings.seeds} <= {*named}
    children = [parent for job in found.values() for parent in job.parents]
    assert len(children) > len(set(children)) or not children  # of base models alone
    assert all((job.resolved.stage == "base") == (not job.parents) for job in found.values())
    for key, need in needs.items():
        run, asked = found[key].resolved, of_snakemake(found[key].resolved, need)
        assert asked["mem_mb"] >= 1000
        assert asked["runtime"] >= 30
        hardware, trains = run.hardware, bool(run.params.get("steps"))
        least = hardware.processes if trains else hardware.sampling_gpus
        assert asked.get("gpu", 0) >= (hardware.device == "cuda") * least
        assert need["cores"] == hardware.threads * (hardware.processes if trains else 1)


def test_the_costs_are_the_planners(runs):
    (_, needs), planned = asked_of("qwen3"), plan("qwen3")
    for column in ("hours", "hours at most", "hours reserved"):
        assert sum(need[column] for need in needs.values()) == pytest.approx(planned.total(column))
    trained = [need for need in needs.values() if need["gpus"] == 8]
    assert all(need["hours limit"] * 8 > need["hours at most"] for need in trained)  # longer than the longest estimate


def test_a_profiles_own_cluster_block_goes_before_the_planners_numbers(runs, tmp_path, monkeypatch):
    project = copy_project(tmp_path)
    monkeypatch.setenv("S2D_HOME", str(project))
    path = project / "params" / "mine.yaml"
    path.write_text("extends: qwen3\ncluster: {gpu: a100-80gb, hours: 5, memory: 200, partition: long}\n")
    mine, plain = (resolve(name, "student.grpo", 0) for name in ("mine", "qwen3"))
    assert mine.hash == plain.hash
    need, usual = (resources(run.profile, {"run": run})["run"] for run in (mine, plain))
    asked = of_snakemake(mine, need)
    assert {"mem_mb": 200_000, "runtime": 300, "slurm_partition": "long"}.items() <= asked.items()
    assert need["hours"] > 1.5 * usual["hours"]  # on a slower GPU
    path.write_text("extends: micro\ncluster: null\n")
    with pytest.raises(StudyError, match="cluster"):
        load_profile("mine")
    path.write_text("extends: micro\ncluster: {hours: null}\n")  # which CPUs have to say
    run = resolve("mine", "student.grpo", 0)
    with pytest.raises(StudyError, match=r"runs on a CPU, whose speed the planner does not know"):
        of_snakemake(run, resources("mine", {"run": run})["run"])


def test_an_executor_that_is_not_installed_is_named(runs, monkeypatch, capsys):
    monkeypatch.setattr("s2d_lib.cli.importlib.util.find_spec", lambda name: None)
    assert main(["study", "--executor", "slurm"]) == 1
    assert "install snakemake-executor-plugin-slurm" in capsys.readouterr().err


def ran(project: Path, *words: str, **environment: str) -> str:
    """What a Python program prints, which has to succeed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("S2D_")}
    how = {"cwd": project, "env": kept | {"S2D_HOME": str(project)} | environment, "timeout": 300, "check": False}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "-m", *words], **how, **streams)
    assert done.returncode == 0, done.stdout
    return done.stdout


def study(project: Path, *words: str, **environment: str) -> str:
    """What `s2d study` prints."""
    return ran(project, "s2d_lib.cli", "study", *words, **environment)


@pytest.mark.slow
def test_snakemake_takes_the_graph_of_a_gpu_profile_with_its_resources(tmp_path):
    project = copy_project(tmp_path)
    output = study(project, "--profile", "llama3", "--dry-run")
    (line,) = [line for line in output.splitlines() if line.startswith("| student_bridge_rl_teacher_seed_2 ")]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2:5] == ["student.warm.rl_teacher, teacher.rl", "to make", "8"]
    assert "30 runs, 30 of them to make: " in output
    rule = rule_of(project, "teacher_rl_seed_0", "--config", "profile=llama3", "ask=1")
    assert all(word in rule for word in ("gpu=8", "runtime=", "mem_mb="))
    assert "gpu_run" not in rule  # how many run at once is the scheduler's business
    # On one machine they go one after the other.
    options = {
        "profile": "qwen3-single-gpu",
        "cores": 2,
        "regime": False,
        "executor": None,
        "dry_run": True,
        "method": None,
    }
    allowed = snakemake_command(argparse.Namespace(**options), project)
    assert allowed[allowed.index("--resources") + 1] == "gpu_run=1"
    assert "gpu_run=1" in rule_of(project, "teacher_rl_seed_0", "--config", "profile=qwen3-single-gpu")


def rule_of(project, rule, *options):
    output = ran(project, "snakemake", "--dry-run", "--cores", "1", *options)
    return output.split(f"rule {rule}:")[1].split("rule ")[0]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SLURM, reason="snakemake-executor-plugin-slurm is not installed")
def test_slurm_is_asked_for_what_a_run_needs_and_makes_it(tmp_path):
    table = {"rows": ["student", "student.grpo"], "reference": "student.grpo"}
    micro = {**TINY, **HEADLINE, "seeds": [0], "cluster": {"partition": "short"}}
    project = copy_project(tmp_path, micro=micro, study={"tables": {"headline": table}})
    commands, state = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    state.mkdir()
    for name, script in FAKES.items():
        (commands / name).write_text(script + "\n")
        (commands / name).chmod(0o755)
    config = project / "executors" / "slurm" / "config.yaml"
    config.write_text(config.read_text().replace("checks: 40", "checks: 1"))
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    study(project, "--executor", "slurm", PATH=path, FAKE_SLURM=str(state))
    calls = (state / "calls").read_text().splitlines()
    rules = [call.split("--comment ")[1].split()[0] for call in calls]
    assert rules == ["rule_student_seed_0", "rule_student_grpo_seed_0"]
    for asked in (" -t 60 ", " --mem 7000 ", " --cpus-per-task=1", " -p short", " --nodes=1"):
        assert all(asked in call for call in calls), asked
    for name in ("student", "student.grpo"):
        assert (project / "runs" / "micro" / "seed-0" / name / "record.json").is_file()
    assert (project / "figures" / "micro" / "headline.csv").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_KUBERNETES, reason="snakemake-executor-plugin-kubernetes is not installed")
def test_kubernetes_takes_the_settings_and_the_graph(tmp_path):
    project = copy_project(tmp_path)
    config = project / "executors" / "kubernetes" / "config.yaml"
    config.write_text(config.read_text().replace("prefix: /s2d", f"prefix: {project}"))
    output = study(project, "--profile", "qwen3-single-gpu", "--executor", "kubernetes", "--dry-run")
    assert "student_bridge_rl_teacher_seed_0" in output

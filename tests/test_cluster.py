"""The graph of every profile, what its runs ask a cluster for, and Snakemake's Slurm executor on a Slurm that is not one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2d_lib.cli import main, parser, snakemake_command
from s2d_lib.errors import StudyError
from s2d_lib.pipeline import jobs
from s2d_lib.plan import of_snakemake, plan, resources
from s2d_lib.study import load_profile, load_study, profile_names, resolve
from s2d_lib.study.graph import table_in
from tests.conftest import HEADLINE, TINY, copy_project

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


# The map's thousand runs resolve in test_committed_runs and are planned in test_plan; micro has a map, too
@pytest.mark.parametrize("name", sorted({*profile_names()} - {"map"}))
def test_the_graph_of_every_profile_shares_ancestors_and_asks_for_what_a_scheduler_understands(runs, name):
    (found, needs), settings, study = asked_of(name), load_profile(name), load_study()
    order = {key: place for place, key in enumerate(found)}
    assert all(order[parent] < order[key] for key, job in found.items() for parent in job.parents)
    named = [(job.resolved.checkpoint, job.resolved.seed) for job in found.values()]
    assert len(set(named)) == len(named) or settings.map  # one run, however many need it; on a map in several forms
    rows = {row for table in settings.tables for row in table_in(study, table, settings, name)[0].rows}
    assert {(row, seed) for row in rows for seed in settings.seeds} <= {*named}
    assert all((job.resolved.stage == "base") == (not job.parents) for job in found.values())
    for key, need in needs.items():
        run, asked = found[key].resolved, of_snakemake(found[key].resolved, need)
        hardware, trains = run.hardware, bool(run.params.get("steps"))
        least = hardware.processes if trains else hardware.sampling_gpus
        assert asked["mem_mb"] >= 1000
        assert asked["runtime"] >= 30
        assert asked.get("gpu", 0) >= (hardware.device == "cuda") * least
        assert need["cores"] == hardware.threads * (hardware.processes if trains else 1)


def test_the_costs_are_the_planners(runs):
    (_, needs), planned = asked_of("qwen3"), plan("qwen3")
    for column in ("hours", "hours at most", "hours reserved"):
        assert sum(need[column] for need in needs.values()) == pytest.approx(planned.total(column))
    trained = [need for need in needs.values() if need["gpus"] == 8]
    assert all(need["hours limit"] * 8 > need["hours at most"] for need in trained)  # longer than the longest estimate


def test_a_profiles_own_cluster_block_goes_before_the_planners_numbers(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("S2D_HOME", str(copy_project(tmp_path)))

    def asked(content: str) -> tuple:
        (tmp_path / "params" / "mine.yaml").write_text(content)
        run = resolve("mine", "student.grpo", 0)
        need = resources("mine", {"run": run})["run"]
        return run, need, of_snakemake(run, need)

    own = "cluster: {gpu: a100-80gb, hours: 5, memory: 200, partition: long}"
    (plain, usual, _), (mine, need, of_scheduler) = asked("extends: qwen3\n"), asked(f"extends: qwen3\n{own}\n")
    assert mine.hash == plain.hash
    assert {"mem_mb": 200_000, "runtime": 300, "slurm_partition": "long"}.items() <= of_scheduler.items()
    assert need["hours"] > 1.5 * usual["hours"]  # on a slower GPU
    for content, sentence in (
        ("null", "cluster"),
        ("{hours: null}", "on a CPU, whose speed the planner does not know"),
    ):
        with pytest.raises(StudyError, match=sentence):
            asked(f"extends: micro\ncluster: {content}\n")


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


@pytest.mark.slow
def test_snakemake_takes_the_graph_of_a_gpu_profile_with_its_resources(tmp_path):
    def rule_of(*config):
        output = ran(project, "snakemake", "--dry-run", "--cores", "1", "--config", *config)
        return output.split("rule teacher_rl_seed_0:")[1].split("rule ")[0]

    project = copy_project(tmp_path)
    output = ran(project, "s2d_lib.cli", "study", "--profile", "llama3", "--dry-run")
    (line,) = [line for line in output.splitlines() if line.startswith("| student_bridge_rl_teacher_seed_2 ")]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2:5] == ["student.warm.rl_teacher, teacher.rl", "to make", "8"]
    assert "30 runs, 30 of them to make: " in output
    rule = rule_of("profile=llama3", "ask=1")
    assert all(word in rule for word in ("gpu=8", "runtime=", "mem_mb="))
    assert "gpu_run" not in rule  # how many run at once is the scheduler's business
    # On one machine they go one after the other.
    allowed = snakemake_command(parser().parse_args(["study", "--profile", "qwen3-single-gpu"]), project)
    assert allowed[allowed.index("--resources") + 1] == "gpu_run=1"
    assert "gpu_run=1" in rule_of("profile=qwen3-single-gpu")


@pytest.mark.slow
def test_slurm_is_asked_for_what_a_run_needs_and_makes_it(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
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
    ran(project, "s2d_lib.cli", "study", "--executor", "slurm", PATH=path, FAKE_SLURM=str(state))
    calls = (state / "calls").read_text().splitlines()
    rules = [call.split("--comment ")[1].split()[0] for call in calls]
    assert rules == ["rule_student_seed_0", "rule_student_grpo_seed_0"]
    for asked in (" -t 60 ", " --mem 7000 ", " --cpus-per-task=1", " -p short", " --nodes=1"):
        assert all(asked in call for call in calls), asked
    for name in ("student", "student.grpo"):
        assert (project / "runs" / "micro" / "seed-0" / name / "record.json").is_file()
    assert (project / "figures" / "micro" / "headline.csv").is_file()


@pytest.mark.slow
def test_kubernetes_takes_the_settings_and_the_graph(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_kubernetes")
    project = copy_project(tmp_path)
    config = project / "executors" / "kubernetes" / "config.yaml"
    config.write_text(config.read_text().replace("prefix: /s2d", f"prefix: {project}"))
    words = ("--profile", "qwen3-single-gpu", "--executor", "kubernetes", "--dry-run")
    output = ran(project, "s2d_lib.cli", "study", *words)
    assert "student_bridge_rl_teacher_seed_0" in output

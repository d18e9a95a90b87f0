# The study as one graph: every checkpoint of the profile's tables is one papermill job per seed, whose parents come
# first. The same graph runs on a laptop (`s2d study`) and, with Snakemake's executors, on a cluster.
#
# A run's marker carries the hash of its resolved parameters in its name: after a change, exactly the runs below it
# lack their marker and are made again. Markers are kept in step with the run folders each time the graph is built.
import shlex
import sys

from s2d_lib.errors import StudyError
from s2d_lib.pipeline import jobs, keep_markers, method_jobs, regime_jobs
from s2d_lib.plan import of_snakemake, resources
from s2d_lib.study import load_profile

# Snakemake reads a value as a number where it can; with its file's ending a name stays what it is.
profile = str(config.get("profile", "micro")).removesuffix(".yaml")
folder = f"figures/{profile}"
try:
    method = config.get("method")  # the only route to be made, where `s2d compare` asks for one
    JOBS = method_jobs(profile, method) if method else (regime_jobs if config.get("regime") else jobs)(profile)
    keep_markers(JOBS)
    # Only a cluster's scheduler is asked for anything: locally `--cores` jobs run side by side, those on GPUs one after the
    # other (`s2d study` allows one `gpu_run` at a time), because each takes the machine's GPUs for itself.
    NEEDS = resources(profile, {key: job.resolved for key, job in JOBS.items()}) if config.get("ask") else {}
    ASKED = {
        key: of_snakemake(job.resolved, NEEDS[key]) if NEEDS else {"gpu_run": int(job.resolved.hardware.device == "cuda")}
        for key, job in JOBS.items()
    }
except StudyError as error:
    sys.exit(f"error: {error}")

SETTINGS = load_profile(profile)
TABLES = [] if method else [f"{folder}/map.csv"] if SETTINGS.map else [f"{folder}/{table}.csv" for table in SETTINGS.tables]
# What a table is made of can also shrink (a seed less, a row less), which no newer run would tell.
PARAMS = ["params/study.yaml", f"params/{profile}.yaml"]
s2d = f"{shlex.quote(sys.executable)} -m s2d_lib.cli"
named = f"--profile {shlex.quote(profile)}"


# Done where `s2d study` was started, also when the runs are made elsewhere.
localrules:
    all,
    results,
    figures,
    regime,


# The markers are targets themselves: Snakemake does not miss an intermediate file when what is made of it is there.
rule all:
    input:
        [job.marker for job in JOBS.values()],
        f"{folder}/regime.csv" if config.get("regime") else TABLES,


# Seeds one after the other: what is finished when a long study is interrupted is whole seeds.
for place, (key, job) in enumerate(JOBS.items()):

    rule:
        name:
            job.rule
        input:
            [JOBS[parent].marker for parent in job.parents],
        output:
            job.marker,
        priority: len(JOBS) - place
        threads: NEEDS[key]["cores"] if key in NEEDS else 1
        resources:
            **ASKED[key],
        params:
            command=job.command,
            record=job.record,
        shell:
            f"{s2d} {{params.command}} && cp {{params.record:q}} {{output:q}}"


rule results:
    input:
        [job.marker for job in JOBS.values()],
        PARAMS,
    output:
        f"{folder}/results/{'points.csv' if SETTINGS.map else 'evaluation.parquet'}",
    shell:
        f"{s2d} results {named}"


rule figures:
    input:
        rules.results.output,
    output:
        report(TABLES, category="tables"),  # shown by `snakemake --report`
    shell:
        f"{s2d} figures {named}"


rule regime:
    input:
        [job.marker for job in JOBS.values()],
        PARAMS,
    output:
        f"{folder}/regime.csv",
    shell:
        f"{s2d} results {named} --regime"

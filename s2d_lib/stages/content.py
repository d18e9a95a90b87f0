"""What a run reads from outside the study, a model's files and problems: its content goes into the record, and what the
runs before it have read must be the same, or their results could not be compared."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import model_place
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import Problems
from s2d_lib.provenance import file_hash
from s2d_lib.runs import MODEL, READ, Run
from s2d_lib.sampling import traces_place
from s2d_lib.stages.weights import parent_weights, starting_weights, weights_of
from s2d_lib.study.problem_sets import LabelBudget

FILES = (".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt")  # of a model: weights, tokenizer and configs


def keep_content(run: Run, problems: Problems) -> None:
    """Keep the content of what a run reads for its record, once it is the same as before.

    Raises:
        StudyError: The run itself, in an earlier attempt or when it was finished, or one of its parents, has read something
            else under the same name.
    """
    now = {f"{MODEL} {model!r}": model_content(model) for model in _models(run)}
    if name := run.resolved.traces:
        now[f"the traces {name!r}"] = file_hash(traces_place(name))
    pool, cut = f"pool {run.resolved.labels}", run.resolved.problems.pool
    if isinstance(cut, LabelBudget):  # a teacher may know fewer labels than there are prompts
        pool += f"@{cut.labels}"
    sets = problems.evaluations | {"validation": problems.validation, pool: problems.pool}
    now |= {f"the problem set {name!r}": problems_content(some) for name, some in sets.items() if some}
    for folder, record in _before(run):
        changed = [name for name, content in now.items() if record.get(READ, {}).get(name, content) != content]
        if changed:
            what = _difference(record[READ][changed[0]], now[changed[0]])
            raise StudyError(
                f"{changed[0]} is not what it was for the run in {folder} ({what}): put the "
                "old one back, give the new one a name or a profile of its own, or delete the runs that read the old one and "
                "make them again."
            )
    if not run.finished:
        run.facts[READ] = now


def _models(run: Run) -> set[str]:
    """The roles' models whose own files the run reads, not another run's."""
    resolved = run.resolved
    own = weights_of(run) if run.finished or resolved.stage == "base" else starting_weights(run)
    found = {resolved.model.model} if own.place is None else set()
    if not run.finished and "teacher" in resolved.parents and parent_weights(run, "teacher").place is None:
        found.add(run.parent("teacher").record["resolved"]["model"]["model"])
    return found


def _before(run: Run) -> Iterator[tuple[Path, dict]]:
    yield run.folder, run.finished.record if run.finished else run.facts
    for kind in run.resolved.parents if not run.finished else ():
        parent = run.parent(kind)
        yield parent.folder, parent.record


def _difference(old: dict | str, new: dict | str) -> str:
    if isinstance(new, str):
        return "other problems, answers or traces"
    return ", ".join(sorted({part for part, _ in old.items() ^ new.items()}))


def model_content(model: str) -> dict[str, str]:
    """SHA-256 of every file of a role's model that is loaded or, of a model of the Hub, the `commit` that lies in its cache;
    a server's is nowhere to be read."""
    place = Path(model_place(model))
    if place.is_dir():
        return {path.name: file_hash(path) for path in sorted(place.iterdir()) if path.suffix in FILES}
    ref = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model, repo_type="model"), "refs", "main")
    return {"commit": ref.read_text("utf-8").strip()} if ref.is_file() else {}


def problems_content(problems: Sequence[Problem]) -> str:
    """SHA-256 over what the problems say, wherever they were read from."""
    said = [{name: value for name, value in asdict(problem).items() if value} for problem in problems]
    rows = [json.dumps(problem, sort_keys=True, default=str) for problem in said]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()

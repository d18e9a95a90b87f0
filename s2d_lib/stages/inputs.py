"""What a run reads: parents' weights, models, problems and stored answers, loaded and checked before anything is trained."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from s2d_lib.errors import StudyError
from s2d_lib.models.adapters import is_adapter
from s2d_lib.models.policy import Policy, configure_torch, load_policy, model_place
from s2d_lib.models.sharing import check_sharing
from s2d_lib.models.vocabularies import check_pair, check_spelling, check_words, share_vocabulary, unwritable
from s2d_lib.problems.base import Problem, Problems
from s2d_lib.problems.files import load_rows
from s2d_lib.problems.public import bare_prompt, user_message
from s2d_lib.problems.sources import load_problems
from s2d_lib.provenance import file_hash
from s2d_lib.runs import MODEL, READ, Run
from s2d_lib.sampling import Rollout, read_rollouts
from s2d_lib.stages import Inputs
from s2d_lib.stages.common import WORKER
from s2d_lib.study import Resolved, project_root
from s2d_lib.study.problem_sets import LabelBudget
from s2d_lib.study.resolve import refuse_too_few_problems, refuse_what_is_not_shared, trains_in_several
from s2d_lib.study.settings import Hardware, RoleModel
from s2d_lib.vllm import refuse_long_prompts, refuse_what_cannot_be

FILES = (".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt")  # of a model: weights, tokenizer and configs


def prepare(run: Run) -> Inputs:
    """Load parents and problems and check all that can be wrong before training.

    Raises:
        StudyError: Missing, stale or broken parent run; student and teacher that do not fit; a label pool that overlaps an
            evaluation set, is smaller than one batch or can't be halved; no GPU where one is asked for; no
            package for the logging that is asked for; a stage or a batch that several processes can't share;
            sampling by vLLM that can't be; traces that are not there, or not of this pool or tokenizer; a model or problems
            that are not what they were for a run before.
    """
    resolved = run.resolved
    refuse_what_is_not_shared(resolved)
    if trains_in_several(resolved):
        check_sharing(resolved.hardware)
    if not run.finished:
        check_tracker(resolved.logging)
        refuse_what_cannot_be(resolved)
    problems = load_problems(resolved.problems, resolved.labels)
    if WORKER not in os.environ:  # else the process that has started it knows
        keep_content(run, problems)
    trained = run.path("model").is_dir()  # an unfinished run goes on with its own model
    start = weights_of(run) if trained else starting_weights(run)
    if run.finished and trained:
        policy = load_policy(resolved.model, resolved.hardware, *start)
        return Inputs(policy, problems, rollouts=_rollouts(run, policy, problems.pool))
    trains = hasattr(resolved.stage_params, "micro_batch")
    hardware = _until_trained(resolved.hardware) if trains and not trained else resolved.hardware
    policy = load_policy(resolved.model, in_full(hardware) if trains else hardware, *start)
    problems = _short_prompts(resolved, policy, problems)
    check_spelling(policy, chain(problems.pool, *problems.evaluations.values()), resolved.role)
    stored = run.parent("rollouts").record["resolved"]["params"] if "rollouts" in resolved.parents else {}
    refuse_too_few_problems(resolved, len(problems.pool), stored.get("samples_per_problem"))
    refuse_long_prompts(resolved, policy, problems)
    inputs = Inputs(policy, problems, rollouts=_rollouts(run, policy, problems.pool))
    if "teacher" in resolved.parents and resolved.stage != "teacher_rollouts":
        spec = RoleModel.model_validate(run.parent("teacher").record["resolved"]["model"])
        # Stages of next-token loss never run the teacher, but train on its token ids or its text, which tokenizers decide.
        inputs.teacher = load_policy(spec, hardware, *parent_weights(run, "teacher"), weights=not resolved.next_token)
        _align(run, inputs)
    return inputs


def check_tracker(name: str) -> None:
    """Raise a StudyError where the package of the tracker that `logging` names is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise StudyError(
            f"the profile asks for `logging: {name}`, but the package {name} is not installed: "
            f"`.venv/bin/pip install {name}`, or set `logging: none`."
        )


def _rollouts(run: Run, policy: Policy, pool: list[Problem]) -> list[Rollout] | None:
    resolved = run.resolved
    if resolved.traces:
        longest = resolved.sampling.max_new_tokens
        return read_traces(resolved.traces, pool, policy, resolved.problems.instruction, longest)
    if "rollouts" not in resolved.parents:
        return None
    asked = {problem.id for problem in pool}
    return [r for r in read_rollouts(run.parent("rollouts").path("rollouts.parquet"))[0] if r.problem in asked]


def _align(run: Run, inputs: Inputs) -> None:
    """Check that policy and teacher fit each other as the stage needs it, and put rollouts into the policy's tokens."""
    policy, teacher, rollouts = inputs.policy, inputs.teacher, inputs.rollouts
    if share_vocabulary(policy, teacher) or not run.resolved.by_text:
        check_pair(policy, teacher)
        return
    check_words(policy, teacher, inputs.problems.pool, stored=rollouts is not None)
    if rollouts is not None:
        inputs.rollouts = by_text(rollouts, policy)
        run.facts["by_text"] = {"rollouts": len(rollouts), "left_out": len(rollouts) - len(inputs.rollouts)}


def _until_trained(hardware: Hardware) -> Hardware:
    """Where models lie that are going to be trained: whole, and where processes will share them not on a GPU, which may be too
    small for that."""
    if not hardware.accelerate:
        return hardware.model_copy(update={"sampling_gpus": 1})
    configure_torch(hardware)
    return hardware.model_copy(update={"device": "cpu", "sampling_gpus": 1})


def in_full(hardware: Hardware) -> Hardware:
    """Weights that an optimiser updates are float32; lower precision rounds small updates away."""
    return hardware.model_copy(update={"dtype": "float32"})


def _short_prompts(resolved: Resolved, policy: Policy, problems: Problems) -> Problems:
    """The problems without those of the pool whose prompt is longer than the stage takes: counted in the report, and said."""
    limit = getattr(resolved.stage_params, "max_prompt_tokens", None)
    if limit is None:
        return problems
    prompts = policy.prompt_ids(problems.pool)
    kept = [problem for problem, ids in zip(problems.pool, prompts, strict=True) if len(ids) <= limit]
    dropped = len(prompts) - len(kept)
    if dropped and not kept:
        raise StudyError(
            f"the prompts of all {dropped} problems of the label pool are longer than the {limit} tokens that "
            f"{resolved.stage} takes: raise max_prompt_tokens."
        )
    if dropped:
        print(f"{dropped} of {len(prompts)} problems are left out: their prompts are longer than {limit} tokens.")
    return replace(problems, pool=kept, report=problems.report | {"longer_prompts": dropped})


# Answers from elsewhere, as rollouts


def traces_place(name: str) -> Path:
    """Where a file of traces lies, in the folder $S2D_DATA or by its path from the project's; else raises a StudyError."""
    for folder in (os.environ.get("S2D_DATA", ""), ""):
        if (place := project_root() / folder / name).is_file():
            return place
    raise StudyError(f"the traces {name!r} are not there: put the file into the folder S2D_DATA, or give its path.")


def read_traces(
    name: str, problems: Sequence[Problem], policy: Policy, instruction: str = "", longest: int | None = None
) -> list[Rollout]:
    """A stronger model's answers to `problems`, in their order, of a .jsonl, .json or .parquet file (see `traces_place`).

    It has a row a problem with `problem` (its id here) or `prompt` (its text or chat messages; spacing and the `instruction` that
    every prompt ends with here do not count) and `answers`, a list of texts; rows about other problems are left out. Answers are
    read with the tokenizer of the policy that is going to learn from them, and cut off after `longest` tokens, as samples are.

    Raises:
        StudyError: The file is missing or broken, or has no answers to any of the problems.
    """
    asked = {_words(problem.prompt, instruction): problem.id for problem in problems}
    answers: dict[str, list[str]] = {problem.id: [] for problem in problems}
    strangers, rows = [], load_rows(traces_place(name), columns=["answers"])
    for number, row in enumerate(rows, 1):
        texts, prompt = row["answers"] or [], row.get("prompt") or ""
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise StudyError(f"row {number} of the traces in {name} must hold `answers`, a list of texts.")
        text = prompt if isinstance(prompt, str) else user_message(prompt) or ""
        problem = row.get("problem") or asked.get(_words(text, instruction))
        if problem in answers:
            answers[problem] += texts
        else:
            strangers.append(str(row.get("problem") or " ".join(text.split())[:40]))
    if len(strangers) == len(rows):
        first = f"the first about {strangers[0]!r}"
        raise StudyError(f"none of the traces in {name} is about a problem of the label pool, {first}.")
    if not any(answers.values()):
        raise StudyError(f"the traces in {name} hold no answer to any problem of the label pool: fill in `answers`.")
    rollouts, eos = [], policy.tokenizer.eos_token_id
    for problem, number, text in ((p, i, text) for p, texts in answers.items() for i, text in enumerate(texts)):
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = (ids if ids[-1] == eos else [*ids, eos])[:longest]  # else who learns from it would never end
        rollouts.append(Rollout(problem, number, tuple(ids), text, ids[-1] == eos))
    return rollouts


def _words(prompt: str, instruction: str) -> str:
    return " ".join(bare_prompt(prompt.rstrip().removesuffix(instruction)).split())


def by_text(rollouts: Sequence[Rollout], policy: Policy) -> list[Rollout]:
    """A teacher's rollouts in the tokens of a student of another vocabulary, EOS where they ended by themselves.

    Those with a word that the student has no tokens for are left out: a sampling teacher may spell a word that is none.

    Raises:
        StudyError: They are more than half; naming the first such word.
    """
    strange = [unwritable(policy, [r.text]) for r in rollouts]
    left_out = sum(map(bool, strange))
    if 2 * left_out > len(rollouts):
        raise StudyError(
            f"student and teacher can't be aligned: in {left_out} of {len(rollouts)} rollouts of the teacher is a word for which "
            f"the student's tokenizer has no tokens, the first {next(filter(None, strange))!r}; take a student that can write it."
        )
    kept = [r for r, word in zip(rollouts, strange, strict=True) if word is None]
    ids = policy.tokenizer([r.text for r in kept], add_special_tokens=False)["input_ids"]
    end = (policy.tokenizer.eos_token_id,)
    return [replace(r, ids=(*read, *end * r.finished)) for r, read in zip(kept, ids, strict=True)]


# Where weights lie. A base run has none of its own; all three raise a StudyError where a run that is needed for them is
# missing, stale or broken.


class Weights(NamedTuple):
    """A checkpoint's folder, None for the place that the role's spec names, and folders of adapters, first to last."""

    place: Path | None
    adapters: tuple[Path, ...] = ()


def weights_of(run: Run) -> Weights:
    """A run's own weights."""
    folder = run.path("model")
    if run.resolved.stage == "base" or not is_adapter(folder):
        return Weights(None if run.resolved.stage == "base" else folder)
    below = starting_weights(run)
    return Weights(below.place, (*below.adapters, folder))


def starting_weights(run: Run) -> Weights:
    """What a run starts from: its parent's weights (of teacher rollouts, the teacher's), or the base model's place."""
    kind = "teacher" if run.resolved.stage == "teacher_rollouts" else "from"
    return parent_weights(run, kind) if kind in run.resolved.parents else Weights(None)


def parent_weights(run: Run, kind: str) -> Weights:
    """The weights of the run that this one reads as `from` or `teacher`."""
    parent = run.parent(kind)
    return weights_of(Run(Resolved.model_validate(parent.record["resolved"]), parent))


# What is read from outside the study goes by its content into the record: what the runs before have read must be the same, or
# their results could not be compared.


def keep_content(run: Run, problems: Problems) -> None:
    """Keep the content of models, traces and problems for the record, once it is the same as before.

    Raises:
        StudyError: The run itself, in an earlier attempt or when it was finished, or one of its parents, has read something
            else under the same name.
    """
    resolved, before = run.resolved, {run.folder: run.finished.record if run.finished else run.facts}
    own = run.finished or resolved.stage == "base"
    models, cut = [(resolved.model.model, weights_of(run) if own else starting_weights(run))], resolved.problems.pool
    if not own:
        parents = {kind: run.parent(kind) for kind in resolved.parents}
        before |= {parent.folder: parent.record for parent in parents.values()}
        if "teacher" in parents:
            theirs = parents["teacher"].record["resolved"]["model"]["model"]
            models.append((theirs, parent_weights(run, "teacher")))
    # Of another run's weights its own record speaks.
    now = {f"{MODEL} {model!r}": model_content(model) for model, weights in models if weights.place is None}
    if name := resolved.traces:
        now[f"the traces {name!r}"] = file_hash(traces_place(name))
    # A teacher may know fewer labels than there are prompts.
    pool = f"pool {resolved.labels}" + (f"@{cut.labels}" if isinstance(cut, LabelBudget) else "")
    sets = problems.evaluations | {"validation": problems.validation, pool: problems.pool}
    now |= {f"the problem set {name!r}": problems_content(some) for name, some in sets.items() if some}
    for folder, record in before.items():
        old = record.get(READ, {})
        if changed := [name for name, content in now.items() if old.get(name, content) != content]:
            was, found = old[changed[0]], now[changed[0]]
            files = isinstance(found, dict) and ", ".join(sorted({part for part, _ in was.items() ^ found.items()}))
            raise StudyError(
                f"{changed[0]} is not what it was for the run in {folder} ({files or 'other problems, answers or traces'}): put "
                "the old one back, give the new one a name or a profile of its own, or delete the runs that read the old one "
                "and make them again."
            )
    if not run.finished:
        run.facts[READ] = now


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

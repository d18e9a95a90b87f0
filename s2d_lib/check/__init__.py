"""`s2d check`: is all that a profile needs here, and does it fit? One line a check, with the remedy where something is missing.

Nothing is trained or downloaded, nor the network asked, but for a vLLM server that the profile names (the command sets
HF_HUB_OFFLINE). What training refuses is asked of training's own refusals, so that each fact has one place.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from s2d_lib.errors import StudyError
from s2d_lib.models.adapters import lora_config
from s2d_lib.models.policy import Policy, how_to_get, load_policy, model_place
from s2d_lib.models.sharing import check_sharing
from s2d_lib.models.vocabularies import check_pair, check_spelling, check_words, share_vocabulary
from s2d_lib.plan import plan, study_runs
from s2d_lib.plan.cost import gpus_of, lora_of
from s2d_lib.plan.memory import refuse_what_does_not_fit, visible_gpus
from s2d_lib.problems.micro import refuse_what_teaches_nothing
from s2d_lib.problems.sources import LOCAL_FILES, cut, load_problems, local_copy
from s2d_lib.runs import runs_root
from s2d_lib.stages.inputs import check_tracker, traces_place
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.problem_sets import WHOLE, Half, LabelBudget, whole_pool
from s2d_lib.study.resolve import refuse_too_few_problems, refuse_what_is_not_shared, stored_answers
from s2d_lib.study.settings import RoleModel
from s2d_lib.vllm import refuse_what_cannot_be


@dataclass(frozen=True)
class Line:
    """The outcome of one check: what was looked at, what was found (of a problem, with its remedy), and whether all is well."""

    about: str
    says: str
    ok: bool = True

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'problem':<8} {self.about}: {self.says}"


def check(profile: str) -> Iterator[Line]:
    """All checks of a profile, each as soon as it is known; without valid parameters there is only that line."""
    params = _line("parameters", _parameters, profile)
    yield params
    if params.ok:
        yield _line("packages", _packages)
        yield from check_runs(profile)
        yield from check_problems(profile)
        yield _line("GPUs", _gpus, profile)
        yield _line("disk", _disk, profile)


def _line(about: str, look: Callable[..., str], *arguments) -> Line:
    try:
        return Line(about, look(*arguments))
    except StudyError as error:
        return Line(about, str(error), ok=False)


def _parameters(profile: str) -> str:
    settings, runs = load_profile(profile), list(study_runs(profile))
    for _, run, _ in runs:
        refuse_what_is_not_shared(run)
    if settings.pretraining:
        refuse_what_teaches_nothing(settings.problems, settings.pretraining)
    parts = f" and {len(settings.map.parts)} parts of a map" if settings.map else ""
    return f"{len(runs)} checkpoints of {len(settings.tables)} tables{parts} resolve"


def _packages() -> str:
    """Every requirement of pyproject.toml against what is installed; extras are asked for by what needs them."""
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, encoding="utf-8", check=False)
    if misfits := [line.rstrip(".") for line in checked.stdout.splitlines() if line.startswith("s2d ")]:
        raise StudyError(f"{'; '.join(misfits)}: `make install` installs the versions that were tested.")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl"))
    return f"all are of supported versions ({versions})"


def check_runs(profile: str) -> list[Line]:
    """What training would refuse of one run of every kind (its stage, models, hardware, sampling), each sentence once."""
    kinds: dict[str, tuple[Resolved, Resolved | None]] = {}
    for _, run, line in study_runs(profile):
        teacher = line.get(run.parents.get("teacher"))
        sizes = [run.params.get(name) for name in ("batch", "micro_batch", "lora")]
        of = (run.stage, run.model, teacher and teacher.model, run.traces, run.hardware, run.sampling, sizes)
        kinds.setdefault(str(of), (run, teacher))
    lines = dict.fromkeys(line for kind in kinds.values() for line in _of_kind(*kind))
    return sorted(lines, key=lambda line: line.about)


def _of_kind(run: Resolved, teacher: Resolved | None) -> Iterator[Line]:
    model, hardware, lora = run.model.model, run.hardware, lora_of(run)
    yield _line("model", lambda: model_folder(run.model) and f"{model} is here")
    yield _line("memory", lambda: refuse_what_does_not_fit(run, certain=False) or f"{run.stage} of {model} fits")
    if run.traces:
        yield _line("traces", lambda: f"{traces_place(run.traces)} is here")
    if teacher and run.stage != "teacher_rollouts" and run.model != teacher.model:
        yield _line("tokenizers", _pair, run, teacher)
    if lora:
        yield _line("lora", lambda: lora_config(_bare(run).model, lora) and f"{model} has the layers that it names")
    if hardware.accelerate:
        yield _line("accelerate", lambda: check_sharing(hardware) or f"{hardware.accelerate} can share a model")
    if run.logging != "none":
        yield _line("logging", lambda: check_tracker(run.logging) or f"{run.logging} is installed")
    # Of rollouts of a trained teacher nobody knows yet where the weights will lie that a server is to have.
    if run.sampling.vllm and (run.stage != "teacher_rollouts" or teacher.stage == "base"):
        yield _line("vLLM", lambda: refuse_what_cannot_be(run) or "samples what it is asked for")


def _pair(run: Resolved, teacher: Resolved) -> str:
    one, other, names = _bare(run), _bare(teacher), f"{run.model.model} and {teacher.model.model}"
    if share_vocabulary(one, other) or not run.by_text:
        check_pair(one, other)
        return f"{names} agree on vocabulary, EOS, pad, chat template and head size"
    check_words(one, other, load_problems(run.problems, run.labels).pool, stored=run.next_token)
    return f"{names} share no vocabulary, and what is transferred is text"


def _bare(run: Resolved) -> Policy:
    """A run's model without its weights."""
    place = None if run.model.gguf_file else model_folder(run.model)
    return load_policy(run.model, run.hardware.model_copy(update={"device": "cpu"}), place, weights=False)


def model_folder(spec: RoleModel) -> Path:
    """The local folder that a role's model is loaded from; the network is not asked.

    Raises:
        StudyError: When it is not there, not whole, or of a name that no model could have.
    """
    place = model_place(spec.model)
    try:
        folder = Path(place) if Path(place).is_dir() else Path(snapshot_download(place, local_files_only=True))
    except LocalEntryNotFoundError:
        raise StudyError(f"{place} is not in the Hub's local cache: {how_to_get(place)}.") from None
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text("utf-8"))["weight_map"].values() if index.is_file() else ["*.safetensors"]
    wanted = [spec.gguf_file] if spec.gguf_file else ["config.json", "tokenizer_config.json", *sorted(set(shards))]
    if missing := [name for name in wanted if not any(folder.glob(name))]:
        raise StudyError(
            f"the folder of model {spec.model!r} is not whole ({folder} lacks {missing[0]}): {how_to_get(place)}."
        )
    return folder


def check_problems(profile: str) -> Iterator[Line]:
    """Every label pool is loaded, taken apart from the evaluation sets and cut, as a run would do it; it must fill an optimiser
    step of every run on it, and their models that are here must have tokens for it."""
    uses: dict[str, list[tuple[Resolved, dict[str, Resolved]]]] = {}
    for _, run, line in study_runs(profile):
        if run.problems.pool:  # of a half or a cut to a label budget the whole, so that it is loaded once
            whole = run.problems.model_copy(update={"pool": whole_pool(run.problems.pool), "validation": None})
            uses.setdefault(str(whole), []).append((run, line))
    for users in uses.values():
        run, _ = max(users, key=lambda user: user[0].problems.validation is not None)
        labels = WHOLE if isinstance(run.problems.pool, Half | LabelBudget) else run.labels
        yield _line(f"label pool {labels}", _pool, run, labels, users)


def _pool(run: Resolved, labels: str, users: list[tuple[Resolved, dict[str, Resolved]]]) -> str:
    spec = run.problems.model_copy(update={"pool": whole_pool(run.problems.pool)})
    try:
        found = load_problems(spec, labels)
    except StudyError as error:
        sets = (spec.pool, *spec.evaluations.values(), spec.validation)
        files = dict.fromkeys(one.file for one in sets if getattr(one, "dataset", None))
        absent = ", ".join(LOCAL_FILES[file] for file in files if file in LOCAL_FILES and not local_copy(file))
        remedy = f" Of local copies, in the folder that S2D_DATA names, {absent} are missing." if absent else ""
        raise StudyError(f"{error}{remedy}") from None
    for user, line in users:
        part = user.problems.pool
        pool = cut(found.pool, part) if isinstance(part, Half | LabelBudget) else found.pool
        refuse_too_few_problems(user, len(pool), stored_answers(user, line))
    for user in {user.model.model: user for user, _ in users}.values():
        policy = None
        with contextlib.suppress(StudyError):  # which another line says
            policy = _bare(user)
        if policy:
            check_spelling(policy, chain(found.pool, *found.evaluations.values()), user.role)
    evaluations = ", ".join(f"{name} {len(problems)}" for name, problems in found.evaluations.items())
    return f"{len(found.pool)} problems, apart from those of {evaluations}"


def _gpus(profile: str) -> str:
    asked = max(gpus_of(run) for _, run, _ in study_runs(profile))
    found = visible_gpus() if asked else []
    seen = "; ".join(f"{name}, {memory / 1e9:.0f} GB free" for name, memory in found) or "none"
    says = f"a run is given up to {asked}, and torch sees {seen}"
    if len(found) < asked:
        raise StudyError(
            f"{says}: lower hardware.processes or sampling_gpus, or run it where there are as many, with a torch built for "
            "them. Memory is held against what the plan assumes where there is none."
        )
    return says if asked else "the profile asks for none"


def _disk(profile: str) -> str:
    found, folder = plan(profile), runs_root()
    wanted, place = found.disk - found.published, next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(place).free
    says = f"runs need {wanted / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free"
    if wanted > free:
        raise StudyError(f"{says}: free some, or let S2D_RUNS name a folder on a larger disk.")
    return says

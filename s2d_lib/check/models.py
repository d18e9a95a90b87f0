"""Are the models here, and do students and their teachers speak the same tokens?"""

import json
from collections.abc import Iterator
from pathlib import Path

from s2d_lib.check.data import at_hand
from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import Resolved, load_profile
from s2d_lib.study.settings import RoleModel

WEIGHTS = ("model.safetensors.index.json", "model.safetensors")  # sharded, or in one file


def check_models(profile: str) -> Iterator[Line]:
    """The model of each role that some run needs: a folder or package that is there, or whole in the Hub's local cache;
    and files of traces."""
    from s2d_lib.sampling import traces_place

    for role, spec in {run.role: run.model for run in resolved_runs(profile).values()}.items():
        try:
            folder(spec)
        except StudyError as error:
            yield Line(f"model of {role}", str(error), ok=False)
        else:
            yield Line(f"model of {role}", f"{spec.model} is here")
    for name in sorted({run.traces for run in resolved_runs(profile).values() if run.traces}):
        try:
            traces_place(name)
        except StudyError as error:
            yield Line("traces", str(error), ok=False)
        else:
            yield Line("traces", f"{name} is here")


def folder(spec: RoleModel) -> Path:
    """The local folder that a role's model is loaded from; the network is not asked.

    Raises:
        StudyError: When it is not there, not whole, or of a name that no model could have.
    """
    from huggingface_hub import try_to_load_from_cache

    from s2d_lib.models.policy import how_to_get, model_place

    place = model_place(spec.model)
    if Path(place).is_dir():
        wanted = (spec.gguf_file,) if spec.gguf_file else ("config.json", "tokenizer_config.json", "*.safetensors")
        for name in wanted:
            if not any(Path(place).glob(name)):
                raise StudyError(f"the folder of model {spec.model!r} holds no {name}: download the model again.")
        return Path(place)
    found = {name: try_to_load_from_cache(place, name) for name in ("config.json", "tokenizer_config.json", *WEIGHTS)}
    index, single = (found[name] for name in WEIGHTS)
    missing = [name for name in ("config.json", "tokenizer_config.json") if not isinstance(found[name], str)]
    if isinstance(index, str):
        shards = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        missing += [name for name in shards if not isinstance(try_to_load_from_cache(place, name), str)]
    elif not isinstance(single, str):
        missing.append(WEIGHTS[1])
    if missing:
        raise StudyError(
            f"{place} is not whole in the Hub's local cache ({len(missing)} files, the first {missing[0]}): {how_to_get(place)}."
        )
    return Path(found["config.json"]).parent


def pairs(profile: str) -> list[tuple[RoleModel, RoleModel, list[Resolved]]]:
    """The students and teachers that some run brings together, each pair of different models once, with these runs."""
    runs, found = resolved_runs(profile), []
    for run in runs.values():
        if "teacher" not in run.parents or run.stage == "teacher_rollouts":
            continue
        student, teacher = run.model, runs[run.parents["teacher"]].model
        known = next((of for one, other, of in found if (one, other) == (student, teacher)), None)
        if known is not None:
            known.append(run)
        elif student != teacher:
            found.append((student, teacher, [run]))
    return found


def check_tokenizers(profile: str) -> Iterator[Line]:
    """Vocabulary, EOS, pad, chat template and head size of every pair; of those from which no more than text is learned
    whether both can write the problems' words (s2d_lib.models.pair)."""
    hardware = load_profile(profile).hardware.model_copy(update={"device": "cpu"})
    for student, teacher, runs in pairs(profile):
        about = f"tokenizers of {student.model} and {teacher.model}"
        try:
            places = [folder(spec) for spec in (student, teacher)]
        except StudyError:
            yield Line(about, "can't be compared before both models are here.", ok=False)
            continue
        from s2d_lib.models.pair import check_pair, check_words, share_vocabulary
        from s2d_lib.models.policy import load_policy

        try:
            one, other = (
                load_policy(spec, hardware, None if spec.gguf_file else place, weights=False)
                for spec, place in zip((student, teacher), places, strict=True)
            )
            found = "agree on vocabulary, EOS, pad, chat template and head size"
            if share_vocabulary(one, other) or not all(run.by_text for run in runs):
                check_pair(one, other)
            else:
                found = "share no vocabulary, and what is transferred is text"
                for run in filter(lambda run: at_hand(run.problems), runs):
                    check_words(one, other, load_problems(run.problems, run.labels).pool, stored=run.next_token)
        except StudyError as error:
            yield Line(about, str(error), ok=False)
        else:
            yield Line(about, found)

"""Making and releasing the micro families' base models: pretrained once, shared by all seeds of the study."""

import shutil
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, TrainerCallback

from s2d_lib.errors import StudyError
from s2d_lib.policies.micro_family import build_model, build_tokenizer, pretrain, settle
from s2d_lib.policies.policy import Policy, configure_torch, save_policy
from s2d_lib.problems.micro import refuse_what_teaches_nothing, world_of
from s2d_lib.provenance import environment, file_hash
from s2d_lib.runs import publish, write_json
from s2d_lib.study import load_profile
from s2d_lib.study.load import did_you_mean
from s2d_lib.study.pretraining import Resettled
from s2d_lib.study.resolve import RELEASED, released_record


def make_base(
    profile: str,
    name: str,
    folder: Path = RELEASED,
    overrides: dict | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> dict:
    """Pretrain one base model of a profile and put it, with its record, into `folder/name`.

    Args:
        profile: Name of a profile with a `pretraining` block.
        name: Which of its models.
        folder: Where released models live; the package's own place by default.
        overrides: Laid over the profile.
        callbacks: For the trainer, for instance a live curve.

    Returns:
        The record: parameters, loss curve, size, weights hash.

    Raises:
        StudyError: The profile pretrains nothing, or no model of that name, or what none could learn from.
    """
    settings = load_profile(profile, overrides)
    if settings.pretraining is None:
        raise StudyError(f"profile {profile!r} has no `pretraining` block: its base models are published checkpoints.")
    if name not in settings.pretraining.models:
        raise StudyError(f"unknown base model {name!r}; {did_you_mean(name, settings.pretraining.models)}")
    refuse_what_teaches_nothing(settings.problems, settings.pretraining)
    configure_torch(settings.hardware)
    asked, spec = settings.pretraining.models[name], settings.pretraining.pretrained(name)
    text = settings.pretraining.corpus.model_copy(update={"mix": settings.pretraining.mix(name)})
    world = world_of(settings.problems)
    tokenizer = build_tokenizer(world, spec.split)
    if isinstance(asked, Resettled):
        other = released_record(folder / asked.of)
        curve, before = other["loss"], other["opening"]
        model = AutoModelForCausalLM.from_pretrained(folder / asked.of)
    else:
        before, model = None, build_model(tokenizer, spec)
        with tempfile.TemporaryDirectory() as scratch:
            curve = pretrain(model, tokenizer, world, text, spec, scratch, callbacks)
    opening = settle(model, tokenizer, world, text, spec, asked.opening, before) if asked.opening else None
    final = folder / name
    beside = folder / f".{name}.unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(beside, ignore_errors=True)  # of an attempt that was killed
    save_policy(Policy(model, tokenizer, chat=False), beside)
    record = {
        "model": asked.model_dump(),
        "corpus": text.model_dump(),
        "world": settings.problems.world.model_dump(),
        "parameters": model.num_parameters(),
        "weights_sha256": file_hash(beside / "model.safetensors"),
        "loss": curve,
        "opening": opening,
        "environment": environment(),
    }
    write_json(beside / "record.json", record)
    publish(beside, final)
    return record

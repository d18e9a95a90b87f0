"""What is unknown, ill-typed, unread or inconsistent in params/*.yaml gets one clear sentence, before anything is loaded."""

import math

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile, load_study, resolve
from s2d_lib.study.resolve import refuse_what_is_not_shared
from tests.conftest import TINY
from tests.study.test_options import PLAIN, SERVER, rule, sampled_by

SPLIT = {"split_teacher": {"model": "micro/chains-teacher"}}


def stage(name: str, **changes) -> dict:
    return {"stages": {name: changes}}


def lora(**changes) -> dict:
    return stage("sparse_rl", lora={"rank": 4, "alpha": 8} | changes)


def problems(**changes) -> dict:
    return {"problems": changes}


def mixed(*shares: int) -> dict:
    return {"mix": dict(zip(("guess", "sloppy", "right"), shares, strict=True))}


EMPTY = {"corpus": mixed(1, 0, 1) | {"slip": 0, "lengths": [2]}, "models": {}}


def pretrained(name: str, changes: object) -> dict:
    return {"pretraining": {"models": {name: changes}}}


def part(**changes) -> dict:
    return {"map": {"parts": {"ends": changes}}}


def taught(method: str, **block) -> tuple:
    of_method = TINY["stages"] | {"self_distillation": PLAIN | {"method": method} | block}
    return "micro", "student.srpo", 0, TINY | {"stages": of_method}


REFUSED = [
    # What can't be a run
    (("micr", "student", 0), "unknown profile 'micr'; did you mean 'micro'?"),
    (("micro", "student.grop", 0), "unknown checkpoint 'student.grop'; did you mean 'student.grpo'?"),
    *((("micro", "student", seed), "`seed` must be a whole number") for seed in (-1, "0", True)),
    (("micro", "student", 0, ["a"]), "`overrides` must be a mapping"),
    # Unknown, of the wrong type, out of bounds
    (stage("opd", stepz=3), "unknown parameter 'stages.opd.stepz'"),
    (stage("opd", steps="many"), "stages.opd.steps"),
    (stage("opd", learning_rate=math.inf), "stages.opd.learning_rate"),
    ({"evaluation": {"untrained": [0.5, 0.5]}}, "`untrained` has temperature 0.5, at which every model is evaluated, or has"),
    ({"seeds": [1000]}, "regime.seeds must not be seeds of the study"),
    # Stages
    (stage("sparse_rl", group_size=7), "group_size 7 does not divide batch"),
    (stage("opd", micro_batch=100), "micro_batch 100 does not divide batch"),
    (stage("opd", top_k=8), "`top_k` belongs to estimator topk_tail"),
    (stage("forward_kl", estimator="sampled_token"), "sampled_token is reverse KL"),
    (stage("opd", teacher_targets="hidden_states"), "teacher_targets hidden_states are kept of stored rollouts"),
    (("micro", "student.opd_only.rl_teacher", 0, stage("opd", states="teacher")), "can't train on teacher states"),
    (("micro", "student.srpo", 0), "there are no hyperparameters of stage 'self_distillation': add them under `stages`."),
    # Adapters
    (lora(target_modules=[]), "nothing would be trained"),
    (lora(target_modules=["q_proj", "lm_head"]), "lm_head can't have an adapter"),
    # vLLM
    (sampled_by("transformers", uses=["evaluation"]), "read where `engine: vllm` is set"),
    (sampled_by(url="http://x"), "`url` belongs to mode server"),
    (sampled_by(**SERVER, uses=["evaluation"]), "mode server samples a training: add `training` to `uses`"),
    (sampled_by(mode="server", url="localhost:8000"), "needs the server's `url`"),
    (sampled_by(uses=["evaluation", "evaluation"]), "one use twice"),
    # Rules
    (rule({"hardware": {"procezzes": 1}}, role="student"), "unknown parameter 'procezzes'"),
    (rule({"steps": 0}, stage="opd"), "steps: Input should be greater than 0"),
    (rule({"steps": 2}, role="student"), "a rule that sets steps must match a stage: name it under `match`"),
    (rule({"stepz": 2}, stage="opd"), "sets 'stepz', which stage opd does not have; did you mean 'steps'?"),
    (rule({"hardware": 3}, stage="opd"), "`hardware` is set key by key: give a mapping"),
    (rule({"cluster": {"hours": -1}}, stage="opd"), "hours: Input should be greater than 0"),
    (rule({"hardware": {"accelerate": "fsdp2.yaml"}}, stage="base"), "raise `processes`, or leave it out"),
    (rule({"hardware": {"sampling_gpus": 2}}, role="student"), "`sampling_gpus` are GPUs: set `device: cuda`"),
    # Roles
    ({"roles": {"outside": {"traces": "a.jsonl"}}}, "by a `model` or by a file of `traces`"),
    (("qwen3", "student", 0, {"roles": {"outside": {"chat": True}}}), "leave the rest out"),
    # Problems
    (problems(pools={"2H": {"count": 8, "lengths": [2], "seed": 0}}), "the pool name 2H is kept for a half of `full`"),
    (("map", "student.grpo", 0, problems(labels=2049)), "`labels` can't be 2049 of the 2048 problems of the pool 'full'"),
    (
        ("qwen3", "student.grpo", 0, problems(labels=64, pools={"full": {"limit": None}})),
        "cut the pool 'full', whose size is not known: give it a `limit`",
    ),
    (
        ("micro", "student.bridge.rl_teacher", 0, problems(labels=None, prompts=None, pools={"full": {"count": 255}})),
        "the label pool 'full' has 255 problems but one optimiser step of opd takes 256: lower `batch` or use more problems.",
    ),
    (
        ("map", "student.teacher_sample_sft.rl_teacher", 0, problems(prompts=63)),
        "has 63 problems, 252 answers to learn, but one optimiser step of teacher_sample_sft takes 256: lower `batch` or use "
        "more problems, or raise teacher_rollouts.samples_per_problem.",
    ),
    (
        ("micro", "student.seq_kd.split_teacher", 0, problems(prompts=255) | {"roles": SPLIT}),
        "has 255 problems, 255 answers to learn, but one optimiser step of teacher_sample_sft takes 256: lower `batch` or "
        "use more problems.",
    ),
    # Pretraining
    (pretrained("chains-student", {"hiden": 1}), "unknown parameter 'pretraining.models.chains-student.pretrained.hiden'"),
    (pretrained("again", {"of": "chains-student", "opening": 1}), "again.resettled.opening: Input should be less than or"),
    (pretrained("early", {"of": "nobody", "opening": 0.1}), "made of 'nobody', which must be a model above it"),
    (pretrained("chains-student", mixed(0, 1, 1)), "'chains-student' has an `opening`, which is learned from guesses and"),
    ({"pretraining": {"corpus": mixed(0, 0, 0)}}, "pretraining.corpus.mix: a corpus of no documents: give one of the shares"),
    (("qwen3", "student", 0, {"pretraining": EMPTY}), "`pretraining` is of micro problems, not of"),
    # Self-distillation
    (taught("srpo", mix=0.9), "`mix` is not read by method srpo (only by advantage_mix)"),
    (taught("srpo", dynamic_weighting=False, weight_beta=2), "srpo without dynamic_weighting"),
    (taught("srpo", length_window=5), "a run without length_floor"),
    *((taught("srpo", reprompt=words), "{question} and {solution}, each once") for words in ("{solution", "{question}{a}")),
    (taught("srpo", feedback_reprompt="{question}"), "{question} and {feedback}"),
    # Maps
    (part(across={"hidden": ["2"]}), "turns 'hidden' to '2', which is not declared"),
    (part(routes={"a": {"end": ["easy"]}, "b": {"end": ["easy", "hard"]}}), "the same number of trials in a cell"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "sentence"), REFUSED)
def test_bad_parameters_get_one_sentence(asked, sentence):
    if isinstance(asked, dict):
        asked = ("map" if "pretraining" in asked else "micro", "student", 0, asked)
    with pytest.raises(StudyError) as error:
        resolve(*asked)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


BASE = "checkpoints: {a: {stage: base, role: student"


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        ("[1, 2]", "must hold a mapping"),
        (BASE, "not valid YAML"),
        ("checkpoints: {a: {stage: base, stage: opd}}\ntables: {}", "'stage' is given twice"),
        ("checkpoints: [a]\ntables: {}", "checkpoints: Input should be a valid dictionary"),
        ("checkpoints: {a: {stage: base}}\ntables: {}", "needs exactly role, given nothing"),
        ("checkpoints: {a: {stage: sparse_rl, from: b, labels: full}}\ntables: {}", "'b', which is not declared"),
        ("checkpoints: {a: {stage: teacher_sft, teacher: a, labels: b}}\ntables: {}", "needs exactly from, labels"),
        (BASE + "}}\ntables: {t: {title: x, rows: [c]}}", "'c', which is not declared"),
        ("checkpoints: {}\ntables: {t: {title: x, rows: [], reference: c}}", "is not one of the rows"),
        (
            "checkpoints: {a: {stage: sparse_rl, from: b, labels: l}, b: {stage: sparse_rl, from: a, labels: l}}\ntables: {}",
            r"study\.yaml: a needs b needs a, which is a cycle\.",
        ),
    ],
)
def test_broken_study_files_get_one_sentence(tmp_path, study, sentence):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text(study)
    with pytest.raises(StudyError, match=sentence):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("below", "own", "sentence"),
    [
        ("{}", "seeds: [0]", "parameter 'problems' is missing"),
        ("problems: {source: micro}", "problems: 3", "problems: Input should be a valid dictionary"),
        ("extends: own", "about: x", "profile 'own' extends itself: own extends below extends own."),
    ],
)
def test_broken_extensions_get_one_sentence(tmp_path, below, own, sentence):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text("checkpoints: {}\ntables: {}")
    (tmp_path / "params" / "below.yaml").write_text(below)
    (tmp_path / "params" / "own.yaml").write_text(f"extends: below\n{own}")
    with pytest.raises(StudyError, match=sentence):
        load_profile("own", root=tmp_path)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("1H", "label pool '1H' is cut from 'full', which is not declared: add it to `pools`."),
        ("3H", "label pool '3H' is not declared; known: 1H, 2H, all."),
    ],
)
def test_a_pool_that_the_profile_does_not_have_is_said(tmp_path, root, labels, sentence):
    (tmp_path / "params").mkdir()
    study = BASE + f"}}, b: {{stage: sparse_rl, from: a, labels: {labels}}}}}\ntables: {{}}"
    (tmp_path / "params" / "study.yaml").write_text(study)
    profile = (root / "params" / "micro.yaml").read_text()
    (tmp_path / "params" / "micro.yaml").write_text(profile.replace("    full: {", "    all: {"))
    with pytest.raises(StudyError) as error:
        resolve("micro", "b", 0, root=tmp_path)
    assert sentence in str(error.value)


def test_a_dense_stage_needs_the_heads_on_its_gpus():
    refuse_what_is_not_shared(resolve("qwen3", "student.bridge.raw_teacher", 0))
    over = rule({"hardware": {"accelerate": "fsdp2-offload.yaml"}}, stage="opd")
    with pytest.raises(StudyError, match=r"opd reads the models' heads .* name fsdp2\.yaml for it"):
        refuse_what_is_not_shared(resolve("qwen3", "student.bridge.raw_teacher", 0, over))

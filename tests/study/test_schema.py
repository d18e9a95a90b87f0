"""Parameters: what is unknown, ill-typed or inconsistent gets one clear sentence."""

import math

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile, load_study, profile_names, resolve
from s2d_lib.study.graph import table_in


@pytest.mark.parametrize("name", profile_names())
def test_every_committed_profile_is_valid(name):
    assert load_profile(name).seeds


def test_every_checkpoint_of_every_profiles_tables_resolves():
    study = load_study()
    for profile in profile_names():
        settings = load_profile(profile)
        for table in settings.tables:
            for row in table_in(study, table, settings, profile)[0].rows:
                assert resolve(profile, row, 0).checkpoint == row


SPLIT = {"split_teacher": {"model": "micro/chains-teacher"}}
CORPUS = {"mix": {"guess": 1, "sloppy": 0, "right": 1}, "slip": 0, "lengths": [2]}


def student(changes: dict) -> dict:
    """Overrides of the map's student's pretraining."""
    return {"pretraining": {"models": {"chains-student": changes}}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("micr", "student", 0), "unknown profile 'micr'; did you mean 'micro'?"),
        (("micro", "student.grop", 0), "unknown checkpoint 'student.grop'; did you mean 'student.grpo'?"),
        (("micro", "student", -1), "`seed` must be a whole number"),
        (("micro", "student", "0"), "`seed` must be a whole number"),
        (("micro", "student", True), "`seed` must be a whole number"),
        (("micro", "student", 0, {"stages": {"opd": {"stepz": 3}}}), "unknown parameter 'stages.opd.stepz'"),
        (("micro", "student", 0, {"stages": {"opd": {"steps": "many"}}}), "stages.opd.steps"),
        (("micro", "student", 0, {"stages": {"opd": {"steps": 0}}}), "stages.opd.steps"),
        (("micro", "student", 0, {"stages": {"sparse_rl": {"group_size": 7}}}), "group_size 7 does not divide batch"),
        (("micro", "student", 0, {"stages": {"opd": {"micro_batch": 100}}}), "micro_batch 100 does not divide batch"),
        (("micro", "student", 0, {"stages": {"opd": {"top_k": 8}}}), "`top_k` belongs to estimator topk_tail"),
        (
            ("micro", "student", 0, {"stages": {"forward_kl": {"estimator": "sampled_token"}}}),
            "sampled_token is reverse KL",
        ),
        (
            ("micro", "student", 0, {"stages": {"opd": {"teacher_targets": "hidden_states"}}}),
            "teacher_targets hidden_states are kept of stored rollouts: they need states teacher",
        ),
        (("micro", "student", 0, {"stages": {"opd": {"learning_rate": math.inf}}}), "stages.opd.learning_rate"),
        (("micro", "student", 0, {"evaluation": {"temperature": math.nan}}), "evaluation.temperature"),
        (("micro", "student", 0, {"hardware": {"device": "tpu"}}), "hardware.device"),
        (("micro", "student", 0, ["a"]), "`overrides` must be a mapping"),
        (("micro", "student", 0, {"stages": {"sparse_rll": {}}}), "unknown parameter 'stages.sparse_rll'"),
        (("micro", "student", 0, {"stages": {"opd": {"stepz": 1}}}), "unknown parameter 'stages.opd.stepz'"),
        (
            ("micro", "student.opd_only.rl_teacher", 0, {"stages": {"opd": {"states": "teacher"}}}),
            "can't train on teacher states",
        ),
        (("micro", "student", 0, {"seeds": [1000]}), "regime.seeds must not be seeds of the study"),
        (
            ("micro", "student", 0, {"problems": {"pools": {"2H": {"count": 8, "lengths": [2], "seed": 0}}}}),
            "the pool name 2H is kept for a half of `full`, which needs no entry: rename it",
        ),
        (("micro", "student", 0, {"problems": {"split_seed": -1}}), "split_seed"),
        (("micro", "student", 0, {"stages": {"teacher_sft": {"group_size": 4}}}), "stages.teacher_sft.group_size"),
        (
            ("micro", "student", 0, {"roles": {"outside": {"traces": "a.jsonl"}}}),
            "by a `model` or by a file of `traces`",
        ),
        (("micro", "student", 0, {"roles": {"outside": {"model": None}}}), "by a `model` or by a file of `traces`"),
        (("qwen3", "student", 0, {"roles": {"outside": {"chat": True}}}), "leave the rest out"),
        (("micro", "student", 0, {"roles": {"outsider": {"model": "a/b"}}}), "roles.outsider"),
        (
            ("map", "student", 0, {"problems": {"labels": 0}}),
            "problems.function_chains.labels: Input should be greater than 0",
        ),
        (
            ("map", "student", 0, {"problems": {"prompts": 0}}),
            "problems.function_chains.prompts: Input should be greater than 0",
        ),
        (
            ("map", "student.grpo", 0, {"problems": {"labels": 2049}}),
            "`labels` can't be 2049 of the 2048 problems of the pool 'full': lower it, or enlarge the pool.",
        ),
        (
            ("map", "student.bridge.raw_teacher", 0, {"problems": {"prompts": 2049}}),
            "`prompts` can't be 2049 of the 2048 problems of the pool 'full': lower it, or enlarge the pool.",
        ),
        (
            (
                "micro",
                "student.bridge.rl_teacher",
                0,
                {"problems": {"labels": None, "prompts": None, "pools": {"full": {"count": 255}}}},
            ),
            "the label pool 'full' has 255 problems but one optimiser step of opd takes 256: lower `batch` or use more problems.",
        ),
        (
            ("map", "student.teacher_sample_sft.rl_teacher", 0, {"problems": {"prompts": 63}}),
            "has 63 problems, 252 answers to learn, but one optimiser step of teacher_sample_sft takes 256: lower `batch` or use "
            "more problems, or raise teacher_rollouts.samples_per_problem.",
        ),
        (
            ("micro", "student.seq_kd.split_teacher", 0, {"problems": {"prompts": 255}, "roles": SPLIT}),
            "has 255 problems, 255 answers to learn, but one optimiser step of teacher_sample_sft takes 256: lower `batch` or "
            "use more problems.",
        ),
        (
            ("map", "student", 0, student({"hidden": -1})),
            "models.chains-student.pretrained.hidden: Input should be greater",
        ),
        (
            ("map", "student", 0, student({"opening": 0})),
            "models.chains-student.pretrained.opening: Input should be greater",
        ),
        (
            ("map", "student", 0, student({"opening": 1})),
            "models.chains-student.pretrained.opening: Input should be less",
        ),
        (
            ("map", "student", 0, student({"hiden": 1})),
            "unknown parameter 'pretraining.models.chains-student.pretrained.hiden'",
        ),
        (
            ("map", "student", 0, {"pretraining": {"models": {"again": {"of": "chains-student", "opening": 1}}}}),
            "profile 'map': pretraining.models.again.resettled.opening: Input should be less than or equal to 0.99, given 1",
        ),
        (
            ("map", "student", 0, {"pretraining": {"models": {"again": 5}}}),
            "pretraining.models.again.pretrained: Input should be a valid dictionary",
        ),
        (
            ("map", "student", 0, student({"mix": {"guess": 0, "sloppy": 1, "right": 1}})),
            "model 'chains-student' has an `opening`, which is learned from guesses and worked documents: give its mix both",
        ),
        (
            ("map", "student", 0, {"pretraining": {"corpus": {"mix": {"guess": 1, "sloppy": 0, "right": 0}}}}),
            "which is learned from guesses and worked documents: give its mix both",
        ),
        (
            ("map", "student", 0, {"pretraining": {"corpus": {"mix": {"guess": 0, "sloppy": 0, "right": 0}}}}),
            "pretraining.corpus.mix: a corpus of no documents: give one of the shares",
        ),
        (
            ("qwen3", "student", 0, {"pretraining": {"corpus": CORPUS, "models": {}}}),
            "`pretraining` is of micro problems, not of competition_math: leave it out",
        ),
    ],
)
def test_bad_parameters_get_one_sentence(arguments, sentence):
    with pytest.raises(StudyError) as error:
        resolve(*arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("checkpoint", "problems"),
    [
        ("student.bridge.rl_teacher", {"labels": 1, "prompts": 1}),
        ("student.bridge.rl_teacher", {"labels": 2048, "prompts": 2048}),
        ("student.teacher_sample_sft.rl_teacher", {"labels": 1, "prompts": 64}),  # with 4 answers each a batch of 256
    ],
)
def test_as_few_and_as_many_problems_as_can_be_at_hand(checkpoint, problems):
    resolve("map", checkpoint, 0, {"problems": problems})


def write_params(folder, study: str):
    (folder / "params").mkdir()
    (folder / "params" / "study.yaml").write_text(study)


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        ("[1, 2]", "must hold a mapping"),
        ("checkpoints: {a: {stage: base, role: student", "not valid YAML"),
        ("checkpoints: {a: {stage: base, stage: opd}}\ntables: {}", "'stage' is given twice"),
        ("tables: {}\ncheckpoints: {}\ntables: {}", "'tables' is given twice"),
        ("checkpoints: {a: {stage: base}}\ntables: {}", "needs exactly role, given nothing"),
        ("checkpoints: {a: {stage: base, role: student, labels: full}}\ntables: {}", "needs exactly role"),
        ("checkpoints: {a: {stage: sparse_rl, from: b, labels: full}}\ntables: {}", "'b', which is not declared"),
        (
            "checkpoints: {a: {stage: teacher_sft, teacher: a, labels: b}}\ntables: {}",
            "needs exactly from, labels",
        ),
        ("checkpoints: {a: {stage: nope}}\ntables: {}", "checkpoints.a.stage"),
        (
            "checkpoints: {a: {stage: base, role: student}}\ntables: {t: {title: x, rows: [c]}}",
            "'c', which is not declared",
        ),
        ("checkpoints: {}\ntables: {t: {title: x, rows: [], reference: c}}", "is not one of the rows"),
    ],
)
def test_broken_study_files_get_one_sentence(tmp_path, study, sentence):
    write_params(tmp_path, study)
    with pytest.raises(StudyError, match=sentence):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("labels", "at_hand", "sentence"),
    [
        ("1H", None, "label pool '1H' is cut from 'full', which is not declared: add it to `pools`."),
        ("3H", None, "label pool '3H' is not declared; known: 1H, 2H, all."),
        ("full", 8, "label pool 'full' is not declared; known: 1H, 2H, all."),
    ],
)
def test_a_pool_that_the_profile_does_not_have_is_said(tmp_path, root, labels, at_hand, sentence):
    write_params(
        tmp_path,
        "checkpoints:\n  student: {stage: base, role: student}\n"
        f"  a: {{stage: sparse_rl, from: student, labels: {labels}}}\ntables: {{}}",
    )
    profile = (root / "params" / "micro.yaml").read_text()
    (tmp_path / "params" / "micro.yaml").write_text(profile.replace("    full: {", "    all: {"))
    with pytest.raises(StudyError) as error:
        resolve("micro", "a", 0, {"problems": {"labels": at_hand}}, root=tmp_path)
    assert sentence in str(error.value)


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path, root, monkeypatch):
    for name in ("study", "micro"):
        write = write_params if name == "study" else lambda to, text: (to / "params" / "micro.yaml").write_text(text)
        write(tmp_path, (root / "params" / f"{name}.yaml").read_text())
    parsed, load = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda *text, **how: parsed.append(text) or load(*text, **how))
    for seed, checkpoint in enumerate(["student", "teacher", "student.grpo"]):
        resolve("micro", checkpoint, seed, {"seeds": [seed]}, tmp_path)
    assert len(parsed) == 2
    path = tmp_path / "params" / "micro.yaml"
    path.write_text(path.read_text() + "\nlogging: tensorboard\n")
    assert resolve("micro", "student", 0, root=tmp_path).logging == "tensorboard"


def test_a_cycle_is_named(tmp_path, root):
    write_params(
        tmp_path,
        "checkpoints:\n  a: {stage: sparse_rl, from: b, labels: full}\n  b: {stage: sparse_rl, from: a, labels: full}\n"
        "tables: {}",
    )
    (tmp_path / "params" / "micro.yaml").write_text(
        (root / "params" / "micro.yaml").read_text().replace("[headline]", "[]")
    )
    with pytest.raises(StudyError, match="a needs b needs a, which is a cycle"):
        resolve("micro", "a", 0, root=tmp_path)


def test_a_profile_that_extends_another_holds_only_what_differs(tmp_path, root):
    (tmp_path / "params").mkdir()
    for name in ("study", "micro"):
        (tmp_path / "params" / f"{name}.yaml").write_text((root / "params" / f"{name}.yaml").read_text())
    write = lambda name, text: (tmp_path / "params" / f"{name}.yaml").write_text(text)  # noqa: E731
    write("a", "extends: micro\nseeds: [7]\nstages: {opd: {steps: 3}}\n")
    write("b", "extends: a\nseeds: [8]\n")
    plain, a, b = (load_profile(name, root=tmp_path) for name in ("micro", "a", "b"))
    assert (a.seeds, b.seeds, a.stages.opd.steps, b.stages.opd.steps) == ([7], [8], 3, 3)
    assert a.stages.forward_kl == plain.stages.forward_kl
    assert load_profile("b", {"stages": {"opd": {"steps": 9}}}, tmp_path).stages.opd.steps == 9
    write("c", "extends: d\n")
    write("d", "extends: c\n")
    with pytest.raises(StudyError, match="profile 'c' extends itself: c extends d extends c"):
        load_profile("c", root=tmp_path)
    write("d", "extends: mikro\n")
    with pytest.raises(StudyError, match=r"profile 'd' extends 'mikro', which there is not; did you mean 'micro'\?"):
        load_profile("c", root=tmp_path)

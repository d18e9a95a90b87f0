"""Validation while training: what it measures, that it leaves no trace, and that an interruption costs no row."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s2d_lib.errors import StudyError
from s2d_lib.losses import kl_divergence
from s2d_lib.models.policy import load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.results.bundle import read_table
from s2d_lib.runs import Run
from s2d_lib.sampling import sample
from s2d_lib.stages.validation import Validation, pair_measures, token_measures
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

MEASURES = ("forward_kl", "reverse_kl", "top16_overlap", "implicit_reward_variance", "opening")
BESIDE = [f"{kind}/{states}" for states in ("teacher_states", "student_states") for kind in MEASURES]


@pytest.fixture
def policies():
    """The student and the teacher, as released, and the micro profile's problems."""
    student, teacher = (resolve("micro-full", name, 0) for name in ("student", "teacher"))
    loaded = [load_policy(r.model, r.hardware) for r in (student, teacher)]
    return *loaded, load_problems(student.problems).evaluations["micro-math"][:7], student.sampling


def test_the_measures_of_a_pair_are_those_of_the_reference(policies):
    student, teacher, problems, sampling = policies
    rollouts = sample(teacher, problems, samples=2, sampling=sampling, seed=1, show=False)
    prompts = {p.id: p.prompt for p in problems}
    by_token, openings, masses = [], [], []
    for rollout in rollouts:  # one at a time, from logits: no padding, no chunks
        prompt = student.tokenizer(prompts[rollout.problem])["input_ids"]
        ids = torch.tensor([[*prompt, *rollout.ids]])
        with torch.no_grad():
            log_s, log_t = (p.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for p in (student, teacher))
        best = [[set(row) for row in log_p.topk(16).indices.tolist()] for log_p in (log_s, log_t)]
        overlap = torch.tensor([len(s & t) / 16 for s, t in zip(*best, strict=True)])
        reward = (log_t - log_s)[range(len(rollout.ids)), rollout.ids]
        by_token.append(torch.stack([kl_divergence(log_t, log_s), kl_divergence(log_s, log_t), overlap, reward]))
        openings.append(log_s[0, rollout.ids[0]].exp().item())
        masses += [(_mass(s, t), _mass(t, s)) for s, t in zip(log_s.exp(), log_t.exp(), strict=True)]
    table = torch.cat(by_token, dim=1).numpy()
    expected = [*table[:3].mean(axis=1), table[3].var(), np.mean(openings)]
    found = pair_measures(student, teacher, problems, rollouts, batch=3)
    assert [found[kind] for kind in MEASURES] == pytest.approx(expected, rel=1e-4)
    found = token_measures(student, teacher, problems, rollouts, batch=3)
    assert torch.stack([found["student_mass"], found["teacher_mass"]], 1).numpy() == pytest.approx(
        np.array(masses), abs=1e-4
    )


def _mass(p, of):
    """Of p, on the fewest of the other's likeliest tokens that hold 99 % of it, at most 16."""
    best = of.argsort(descending=True)
    needed = 1 + int((of[best].cumsum(0) < 0.99).sum())
    return p[best[: min(needed, 16)]].sum().item()


@pytest.mark.slow
def test_a_stage_is_measured_before_between_and_after_beside_its_teacher_and_trains_as_without(make, tiny):
    run = make("student.bridge.raw_teacher")
    rows = read_table(run.path("validation.csv"))
    assert list(rows) == ["step", "accuracy", "length", "formed", "correct", *BESIDE]
    assert rows["step"].tolist() == [0, 2, 4]
    graded = rows["correct"].str.split("/", expand=True)  # a column a problem
    assert graded.shape == (3, 5)
    assert graded.map(len).eq(3).all(axis=None)
    shares = graded.map(lambda bits: bits.count("1") / 3)
    assert shares.mean(axis=1).tolist() == pytest.approx(rows["accuracy"], abs=1e-6)
    assert (rows[BESIDE] > 0).all(axis=None)
    nothing = {"validation": None, "problems": {"validation": None}}
    without = make("student.bridge.raw_teacher", overrides=deep_merge(tiny, nothing))
    assert without.record["files"]["model/model.safetensors"] == run.record["files"]["model/model.safetensors"]
    assert not without.path("validation.csv").exists()


def test_validation_may_be_decoded_otherwise_than_training():
    run = Run(resolve("micro-arithmetic", "student.grpo", 0))
    own, training = Validation(run, SimpleNamespace(teacher=None)).sampling, run.resolved.sampling
    assert own == training.model_copy(update={"temperature": 0.6, "top_p": 0.95}) != training


def test_validation_without_problems_is_refused(tiny):
    for half in ({"validation": None}, {"problems": {"validation": None}}):
        with pytest.raises(StudyError, match=r"`validation` and `problems.validation` belong together"):
            resolve("micro-full", "student.grpo", 0, deep_merge(tiny, half))

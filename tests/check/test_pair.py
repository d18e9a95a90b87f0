"""`s2d check --pair` on pairs whose answer is known: students that are the teacher, but for what their heads make rare. And
`--layers`, by which a student is cut from its teacher that one study heals and another starts from."""

import copy
import json

import numpy as np
import pytest
import torch

from s2d_lib.check.layers import leave_out, read_layers
from s2d_lib.check.pair import SAMPLES, measure, read_pair, reading
from s2d_lib.cli import main
from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, load_policy, model_place
from s2d_lib.plan.cost import shape_of
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import sample
from s2d_lib.stages.validation import token_measures
from s2d_lib.study import resolve
from s2d_lib.study.settings import Hardware, RoleModel
from tests.conftest import TINY, copy_project

TEACHER = RoleModel(model="micro/chains-teacher")
HEALED = "run:healing/student.warm.raw_teacher"


@pytest.fixture(scope="module")
def known():
    """A released model that knows everything and works most problems out, problems, how to sample, and its answers' words."""
    run = resolve("micro", "student.warm.raw_teacher", 0)
    teacher = load_policy(RoleModel(model="micro/chains-student-h0-6e-1"), run.hardware)
    problems = load_problems(run.problems).pool[:24]
    answers = sample(teacher, problems, samples=SAMPLES, sampling=run.sampling, seed=1, show=False)
    return teacher, problems, run.sampling, [answer.text.split() for answer in answers]


def shifted(policy: Policy, word: str, by: float) -> Policy:
    """The policy with other log-odds of one word, everywhere."""
    model = copy.deepcopy(policy.model)
    head = torch.nn.Linear(*reversed(model.lm_head.weight.shape))
    bias = torch.zeros(len(head.weight))
    bias[policy.tokenizer.convert_tokens_to_ids(word)] = by
    head.weight, head.bias = model.lm_head.weight, torch.nn.Parameter(bias)
    model.lm_head = head
    return Policy(model, policy.tokenizer, policy.chat)


def test_a_teacher_has_nothing_to_teach_itself(known):
    teacher, problems, sampling, _ = known
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    pair = measure(teacher, teacher, problems, "exact", sampling, seed=1)
    assert torch.rand(1) == expected  # no stream has noticed
    assert pair.verdict == "this teacher has nothing to teach"
    for side in ("teacher", "student"):
        numbers = pair.numbers[side]
        assert numbers[["top16_overlap", "forward_kl", "reverse_kl"]].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
        assert numbers["student_mass"] == numbers["teacher_mass"] > 0.9
        assert numbers[["lost", "lost_at_first", "lost_later"]].tolist() == [0, 0, 0]
        assert numbers["sampled"] < numbers["passed"] <= numbers["greedy"] == 1


def test_a_student_that_guesses_nearly_always_learns_by_opd_and_one_that_always_does_needs_a_warmup(known):
    teacher, problems, sampling, answers = known
    students = (shifted(teacher, "#", by) for by in (4.0, 20.0))
    rare, never = (measure(student, teacher, problems, "exact", sampling, seed=1) for student in students)
    assert (rare.verdict, never.verdict) == ("OPD at once", "a short warmup first")
    assert rare.numbers.loc["greedy", "student"] < 0.2
    assert rare.numbers.loc["lost", "teacher"] == 0
    worked = np.mean([answer[0] != "#" for answer in answers])
    # but for a first word that was hardly meant
    assert never.numbers.loc["lost_at_first", "teacher"] == pytest.approx(worked, abs=0.02)
    assert never.numbers.loc["opening", "teacher"] < rare.numbers.loc["opening", "teacher"]


def test_a_gap_of_knowledge_is_seen_where_both_begin_alike(known):
    teacher, problems, sampling, answers = known
    pair = measure(shifted(teacher, "f0", -20.0), teacher, problems, "exact", sampling, seed=1)
    assert pair.verdict == "a short warmup first"
    assert pair.numbers.loc["lost_later", "teacher"] == pytest.approx(np.mean(["f0" in answer for answer in answers]))
    assert pair.numbers.loc["lost_at_first", "teacher"] == 0
    assert pair.numbers.loc["opening", "teacher"] > 0.3
    assert pair.numbers.loc["lost", "student"] == 0  # its own answers never go there


@pytest.mark.parametrize(
    ("greedy", "sampled", "lost", "verdict"),
    [
        (1.0, 0.9, 0.2, "OPD at once"),
        (1.0, 0.9, 0.21, "a short warmup first"),
        (0.0, 0.1, 1.0, "this teacher has nothing to teach"),  # worse than the student
        (0.5, 0.5, 0.0, "this teacher has nothing to teach"),  # the student is as good at its own best
    ],
)
def test_the_reading_compares_both_at_their_best_and_then_asks_for_the_reach(greedy, sampled, lost, verdict):
    half = np.arange(20) % 2.0
    rewards = {
        "teacher": {"sampled": np.full(20, sampled), "greedy": np.full(20, greedy)},
        "student": {"sampled": np.zeros(20), "greedy": half},
    }
    assert reading({"lost": lost, "lost_at_first": lost, "lost_later": 0.0}, rewards)[0] == verdict


def test_the_command_reads_base_models_without_a_run(runs, capsys):
    assert main(["check", "--pair", "student.warm.raw_teacher", "--prompts", "16"]) == 0
    said = capsys.readouterr().out
    assert "16 likeliest tokens (33% by chance)" in said
    assert said.splitlines()[-1].startswith("this teacher has nothing to teach: the teacher's best reward (")
    assert not runs.exists()


@pytest.mark.parametrize(
    ("checkpoint", "roles", "prompts", "sentence"),
    [
        ("student.grpo", {}, 32, "has no teacher, or only a file of traces"),
        ("student.opd_only.rl_teacher", {}, 32, r"needs the run 'teacher.rl' .* which does not exist yet: make"),
        ("student.warm.raw_teacher", {"teacher": {"model": "micro/llama-teacher"}}, 32, "in their vocabularies"),
        ("student.warm.raw_teacher", {}, 1, "at least 2 prompts, given 1"),
    ],
)
def test_what_is_no_pair_gets_a_sentence(runs, checkpoint, roles, prompts, sentence):
    with pytest.raises(StudyError, match=sentence):
        read_pair(resolve("micro", checkpoint, 0, {"roles": roles}), prompts)


def test_the_cheapest_layer_goes_first_and_then_the_cheapest_beside_it():
    run, whole = resolve("micro", "student.warm.raw_teacher", 0), load_policy(TEACHER, Hardware())
    problems = load_problems(run.problems).pool[:12]
    rollouts = sample(whole, problems, samples=1, sampling=run.sampling, seed=1, show=False)

    def cheapest(*gone: int) -> tuple[float, int]:
        costs = []
        for place in {0, 1, 2} - {*gone}:
            cut = TEACHER.model_copy(update={"layers": sorted({0, 1, 2} - {*gone, place})})
            kl = token_measures(load_policy(cut, Hardware()), whole, problems, rollouts, 12)["forward_kl"]
            costs.append((kl.mean().item(), place))
        return min(costs)

    found, (cost, first) = leave_out(whole, problems, rollouts, 2, batch=5), cheapest()
    both, second = cheapest(first)
    assert found["layer"].tolist() == [first, second]
    assert found["kept"].tolist() == [sorted({0, 1, 2} - {first}), sorted({0, 1, 2} - {first, second})]
    assert found["forward_kl"].tolist() == pytest.approx([cost, both], rel=1e-4)
    assert len(whole.model.model.layers) == 3  # as before
    with pytest.raises(StudyError, match="of 3 layers, 3 can't be left out: give 1 to 2"):
        leave_out(whole, problems, rollouts, 3, batch=5)
    with pytest.raises(StudyError, match="'student' has no prompts"):
        read_layers(resolve("micro", "student", 0), 1)


def test_a_student_healed_by_one_study_is_the_base_model_of_another(tmp_path, runs, monkeypatch, capsys):
    monkeypatch.setenv("S2D_HOME", str(copy_project(tmp_path)))
    role = lambda model, kept=None: {"roles": {"student": {"model": model, "layers": kept}}}  # noqa: E731
    for name, own in {
        "healing": TINY | role("micro/chains-teacher", [0, 2]),
        "pair": TINY | role(HEALED),
        "loop": role("run:loop/student.grpo"),
    }.items():
        content = {"extends": "micro", "about": name, "map": None, "tables": ["headline"], **own}
        (tmp_path / "params" / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
    assert main(["study", "--profile", "pair"]) == 1
    said = "comes from a run that does not exist yet: `s2d study --profile healing` makes it"
    assert f"the model '{HEALED}' {said}" in capsys.readouterr().err
    with pytest.raises(StudyError, match=r"'run:loop/student\.grpo' would be made of itself"):
        resolve("loop", "student", 0)
    with pytest.raises(StudyError, match=r"unknown checkpoint 'student\.war'; did you mean"):
        resolve("pair", "student", 0, role("run:healing/student.war"))
    assert shape_of(HEALED).layers == 2
    for name in ("student", "teacher", "teacher.rollouts.full", "student.warm.raw_teacher"):
        assert main(["run", "--profile", "healing", "--checkpoint", name]) == 0
    student = resolve("pair", "student", 0)
    assert student.weights == resolve("healing", "student.warm.raw_teacher", 0).hash
    assert main(["run", "--profile", "pair", "--checkpoint", "student"]) == 0
    assert model_place(HEALED).startswith(str(runs))
    assert load_policy(student.model, Hardware()).model.config.num_hidden_layers == 2

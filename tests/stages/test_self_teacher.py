"""The self-teacher: the moving average by hand, kept to the byte; what it is shown, and what is cut when that is too long."""

import pytest
import torch
from fixed_rollouts import MIXED, questions, student, trainer
from transformers import TrainerCallback

from s2d_lib.errors import StudyError
from s2d_lib.models.adapters import lora_config, plain
from s2d_lib.problems.base import Problem
from s2d_lib.stages.second_look import given_to_base
from s2d_lib.stages.self_teacher import Reprompts
from s2d_lib.study.settings import Lora

QUESTION = "v1 f2 f3 ?"
SOLUTION = "v1 f2 v4 f3 v9 # v9"


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)])
def test_the_self_teacher_is_the_moving_average_by_hand_of_what_is_trained(tmp_path, lora):
    rate, config, seen = 0.3, lora and lora_config(student().model, lora), []
    made = trainer(tmp_path, "srpo", [*MIXED, *MIXED], 8, steps=2, ema_rate=rate, steps_per_sampling=2, peft=config)

    class Watching(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            seen.append({name: w.detach().clone() for name, w in plain(model).named_parameters() if w.requires_grad})

        on_step_end = on_train_begin

    made.add_callback(Watching())
    made.train()
    teacher, policy = (dict(plain(model).named_parameters()) for model in (made.self_teacher.model, made.model))
    assert len(seen) == 3
    for name, hand in seen[0].items():
        for later in seen[1:]:
            hand = (1 - rate) * hand + rate * later[name]
        torch.testing.assert_close(teacher[name], hand, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(teacher[name], policy[name]) for name in seen[0])
    assert not any(weights.requires_grad for name, weights in teacher.items() if name in seen[0])
    assert all(teacher[name] is policy[name] for name in teacher if name not in seen[0])  # the base is held once
    if lora is None:  # tied weights are averaged once
        model = made.self_teacher.model
        torch.testing.assert_close(model.lm_head.weight, model.get_input_embeddings().weight)
    made.self_teacher.save(tmp_path)
    before = {name: weights.clone() for name, weights in teacher.items()}
    with torch.no_grad():
        for name in seen[0]:
            teacher[name].zero_()
    made.self_teacher.load(tmp_path)
    assert all(torch.equal(before[name], weights) for name, weights in teacher.items())


# What it is shown


@pytest.fixture(scope="module")
def policy():
    return student()


def test_a_short_one_is_the_template_and_a_solutions_braces_are_just_text(policy):
    made = Reprompts(policy, "{solution} {question}")
    ids, cut = made.of("solution", QUESTION, SOLUTION)
    assert (policy.tokenizer.decode(ids), cut) == (f"{SOLUTION} {QUESTION}", False)
    assert len(made.of("solution", "{solution}", "{question}").ids) == 2  # unknown words


def test_a_long_one_loses_the_beginning_of_its_solution_and_nothing_else(policy):
    ids, cut = Reprompts(policy, "# {question} {solution} ?", max_tokens=8).of("solution", QUESTION, SOLUTION)
    assert (policy.tokenizer.decode(ids), cut, len(ids)) == (f"# {QUESTION} # v9 ?", True, 8)


def test_the_limit_is_what_the_context_leaves(policy):
    assert Reprompts(policy, "{solution} {question}", max_new_tokens=20).limit == 64 - 20
    assert Reprompts(policy, "{solution} {question}", max_tokens=30, max_new_tokens=20).limit == 30
    with pytest.raises(StudyError, match="lower max_reprompt_tokens to 44 or less"):
        Reprompts(policy, "{solution} {question}", max_tokens=45, max_new_tokens=20)
    with pytest.raises(StudyError, match="no room in the model's context of 64: lower max_new_tokens"):
        Reprompts(policy, "{solution} {question}", max_new_tokens=64)


def test_a_question_that_leaves_no_room_is_refused_beforehand(policy):
    long = Problem("long", "f1 " * 50, "v1")
    made = Reprompts(policy, "{solution} {question}", max_new_tokens=20)
    made.check_fit(questions(8))
    with pytest.raises(StudyError, match="the reprompt of problem 'long' takes 50 tokens without any solution"):
        made.check_fit([*questions(8), long])
    with pytest.raises(StudyError, match="takes 50 tokens without any solution"):
        made.of("solution", long.prompt, SOLUTION)


# What a given solution is worth to a base model, without which it has nothing to say as a self-teacher


@pytest.mark.slow
def test_a_solution_helps_the_base_model():
    table = given_to_base("micro-table-lookup", samples=4)
    assert len(table) >= 30  # of 200 problems are solved now and then
    mean = table.mean(numeric_only=True)
    assert mean["own solution"] > 1.5 * mean["alone"]
    assert mean["own solution"] > mean["another's solution"] + 0.02


def test_a_profile_without_a_self_teacher_is_refused():
    with pytest.raises(StudyError, match=r"needs `stages\.self_distillation`"):
        given_to_base("micro-full")

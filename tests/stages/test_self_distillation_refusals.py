"""What can't work is said in one sentence, before anything is trained."""

import copy

import pytest
import torch
from datasets import Dataset
from fixed_rollouts import MIXED, Given, trainer

from s2d_lib.errors import StudyError
from s2d_lib.stages import self_distillation as stage
from s2d_lib.stages.self_distillation import SelfDistillationTrainer
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow


def with_stage(tiny, **changes):
    return deep_merge(tiny, {"stages": {"self_distillation": changes}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"group_size": 1}, "a group needs 2 rollouts or more, or there is nobody to compare a rollout with, given 1"),
        ({"group_size": 3}, "group_size 3 does not divide batch 16"),
        ({"max_reprompt_tokens": 60}, "60 and the completion's 20 tokens are more than the model's context of 64"),
        ({"reprompt": "{solution} " + "# " * 60 + "{question}"}, "tokens without any solution, but reprompts may have 44"),
        ({"feedback_reprompt": "{feedback} {question}"}, "no problem of its label pool has any feedback"),
        ({"reprompt": "{question}"}, "a reprompt has the placeholders {solution} and {question}, each once and no others"),
        ({"steps_per_sampling": 3}, "steps_per_sampling 3 does not divide save_steps 2"),
    ],
)  # fmt: skip
def test_what_can_not_work_is_said_before_training(make, tiny, monkeypatch, changes, sentence):
    monkeypatch.setattr(stage, "train", lambda *a, **k: pytest.fail("training has begun"))
    with pytest.raises(StudyError) as error:
        make("student.srpo", overrides=with_stage(tiny, **changes))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_rewards_that_do_not_say_who_is_correct(tmp_path):
    with pytest.raises(
        StudyError, match=r"^nothing says which rewards are those of correct rollouts: set the stage's `thres"
    ):
        trainer(tmp_path, "srpo", [0.5, *MIXED[1:]], 8)
    trainer(tmp_path, "srpo", [0.5, *MIXED[1:]], 8, threshold=0.5).train()


def refused_in_training(made, sentence: str) -> None:
    """Its training stops with this before any weight has changed."""
    before = copy.deepcopy(made.model.state_dict())
    with pytest.raises(StudyError, match=sentence):
        made.train()
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_a_reward_that_is_not_what_it_said_to_be(tmp_path):
    made = trainer(tmp_path, "srpo", MIXED, 8)
    made.reward_funcs[0].graded = dict.fromkeys(made.reward_funcs[0].graded, 0.5)
    refused_in_training(made, r"^a reward is 0\.5, neither 0 nor 1, .*: set the stage's `threshold`\.$")


def test_a_rollout_that_nobody_scored(tmp_path):
    made = trainer(tmp_path, "srpo", MIXED, 8)
    made.reward_funcs[0].graded[tuple(made.given[3])] = None
    refused_in_training(made, r"^1 of 16 rollouts were scored by no reward function")


def test_groups_of_different_prompts(tmp_path):
    made = trainer(tmp_path, "srpo", MIXED, 8)
    made._get_train_sampler = lambda dataset=None: [i for _ in range(4) for i in range(4)]
    refused_in_training(made, "^rollouts of different prompts stand in one group of 4")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reprompts": None}, "method srpo has a self-teacher, which needs `reprompts`"),
        ({"train_dataset": Dataset.from_list([{"prompt": "v1"}] * 4)}, "a column `question`"),
    ],
)
def test_a_self_teacher_without_reprompts_or_questions(tmp_path, monkeypatch, change, sentence):
    monkeypatch.setattr(Given, "__init__", lambda self, **k: SelfDistillationTrainer.__init__(self, **k | change))
    with pytest.raises(StudyError, match=sentence):
        trainer(tmp_path, "srpo", MIXED, 8)


def test_completions_that_fill_the_context(make, tiny):
    with pytest.raises(StudyError, match="leave a self-teacher's prompt no room in the model's context of 64"):
        make("student.srpo", overrides=deep_merge(tiny, {"sampling": {"max_new_tokens": 64}}))


def test_groups_that_are_sampled_apart_are_refused(tmp_path):
    with pytest.raises(StudyError, match="steps_per_generation must be a multiple"):
        trainer(tmp_path, "srpo", MIXED, 4, config={"gradient_accumulation_steps": 4, "steps_per_generation": 2})
    with pytest.raises(ValueError, match="divisible by num_generations"):  # TRL's own
        trainer(tmp_path, "srpo", MIXED[:6], 2, per_step=6)


def test_a_chat_profile_needs_a_chat_template(make, tiny):
    with pytest.raises(StudyError, match="has no chat template"):
        make("student.srpo", overrides=deep_merge(tiny, {"roles": {"student": {"chat": True}}}))

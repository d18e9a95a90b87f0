"""The reward function, called as TRL calls it."""

import pickle

import pytest
from trl.trainer.utils import get_callable_name

from s2d_lib.errors import StudyError
from s2d_lib.grading import make_reward

COLUMNS = {"completion_ids": [[1], [2], [3]], "trainer_state": None, "id": ["a", "b", "c"]}


def test_plain_completions():
    reward = make_reward("math")
    answers = ["1", "2", "3"]
    completions = [r"\boxed{1}", r"\boxed{1}", "no idea"]
    assert reward(prompts=["?"] * 3, completions=completions, answer=answers, **COLUMNS) == [1.0, 0.0, 0.0]


def test_conversations():
    reward = make_reward("exact")
    completions = [
        [{"role": "assistant", "content": "v1 # v2"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "v1 # v2"}]}],
        [{"role": "assistant", "content": None, "tool_calls": []}],
    ]
    rewards = reward(prompts=[[{"role": "user", "content": "?"}]] * 3, completions=completions, answer=["v2"] * 3)
    assert rewards == [1.0, 1.0, 0.0]
    assert all(type(value) is float for value in rewards)


def test_the_name_that_trl_logs_and_pickling():
    reward = make_reward("exact", answer_column="gold")
    assert get_callable_name(reward) == "correctness"
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(prompts=[""], completions=["# v1"], gold=["v1"]) == [1.0]


def test_the_share_of_well_formed_answers_is_logged():
    logged = {}
    make_reward("exact")(
        prompts=["", ""], completions=["# v1", "v1"], answer=["v1", "v1"], log_metric=logged.__setitem__, log_extra=None
    )
    assert logged == {"formed": 0.5}


def test_a_missing_column_is_named():
    with pytest.raises(StudyError, match="'gold'"):
        make_reward("math", answer_column="gold")(prompts=[""], completions=[""], answer=["1"])


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"longer|shorter"):
        make_reward("exact")(prompts=[""], completions=["# v1"], answer=["v1", "v2"])


def test_unknown_mode_is_refused_when_it_is_made():
    with pytest.raises(StudyError, match="fuzzy"):
        make_reward("fuzzy")

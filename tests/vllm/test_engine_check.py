"""The greedy-token check: passes on the same weights and on ties, catches everything else."""

import pytest
import torch
from stand_ins import answered

from s2d_lib.errors import StudyError
from s2d_lib.study.settings import CHECK_TOKENS, Hardware, Vllm
from s2d_lib.vllm import PROBLEMS, Answer, Engine, compare, compared, refuse, tolerance_of

TOLERANCE = tolerance_of("float32")


@pytest.fixture
def asked(problems):
    return problems[:PROBLEMS]


@pytest.fixture
def started(engines, policy, tmp_path):
    """Starts an engine with the policy's weights of now."""
    return lambda: Engine(policy, Vllm(), Hardware(), batch=64, context=64, place=tmp_path / "weights")


def answers_of(policy, asked):
    return [answered(policy.model, p, policy.tokenizer.eos_token_id, CHECK_TOKENS) for p in policy.prompt_ids(asked)]


def test_the_same_weights_pass_and_the_model_is_left_as_it_was(policy, asked):
    answers = answers_of(policy, asked)
    policy.model.train()
    found = compare(policy, asked, answers, TOLERANCE)
    assert policy.model.training
    assert (found.tokens, found.fault) == (sum(len(a.ids) for a in answers), "")
    assert found.drift < 1e-5
    refuse(found.fault, "'student'")


def test_another_token_is_named_with_its_problem_and_place(policy, asked):
    answers = answers_of(policy, asked)
    ids, own = list(answers[2].ids), answers[2].ids[1]
    ids[1] = next(i for i in range(5, 20) if i != own)
    answers[2] = answers[2]._replace(ids=ids)
    said, meant = (policy.tokenizer.decode([i]) for i in (ids[1], own))
    where = f"at problem '{asked[2].id}', token 2 of its greedy answer"
    sentence = f"weights of 'student': {where}, it says '{said}' where transformers says '{meant}'"
    with pytest.raises(StudyError, match=sentence):
        refuse(compare(policy, asked, answers, TOLERANCE).fault, "'student'")


def test_a_near_tie_is_no_desync(policy, asked):
    """Two tokens whose logits are made equal but for less than the tolerance: either may come first."""
    (prompt,) = policy.prompt_ids(asked[:1])
    first = answers_of(policy, asked[:1])[0].ids[0]
    other = next(i for i in range(5, 20) if i not in (first, *prompt))
    head = policy.model.get_input_embeddings().weight  # tied with the head
    with torch.no_grad():
        head[other] = head[first] * 0.999999
        at = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1)
    assert 0 < abs(float(at[first] - at[other])) < TOLERANCE
    second = first if at[other] > at[first] else other
    rest = answered(policy.model, [*prompt, second], policy.tokenizer.eos_token_id, CHECK_TOKENS - 1)
    tied = [Answer([second, *rest.ids], [{second: float(at[second])}, *rest.log_probs])]
    assert compare(policy, asked[:1], tied, TOLERANCE).fault == ""
    assert "token 1 of its greedy answer" in compare(policy, asked[:1], tied, 1e-9).fault


def test_weights_that_changed_too_little_for_another_token_are_caught_by_their_log_probabilities(policy, asked):
    stale = answers_of(policy, asked)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.002)
    assert [a.ids for a in answers_of(policy, asked)] == [a.ids for a in stale]
    fault = compare(policy, asked, stale, TOLERANCE).fault
    assert "transformers' but the log-probabilities lie" in fault


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None])
def test_broken_log_probabilities_and_none_at_all_never_pass(policy, asked, value):
    answers = answers_of(policy, asked)
    answers[0] = answers[0]._replace(log_probs=[{answers[0].ids[0]: value}, *answers[0].log_probs[1:]])
    if value is None:
        answers = [Answer([], []) for _ in answers]
    assert compare(policy, asked, answers, TOLERANCE).fault


def test_a_sure_models_update_shows_in_the_tokens_behind(policy, asked, started):
    """The first choices' log-probabilities are about 0 before and after it."""
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(10)  # ten times the logits
    engine = started()
    assert compared(engine, policy, asked).fault == ""
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1.001)
    assert "log-probabilities lie" in compared(engine, policy, asked).fault


def test_the_coarsest_precision_says_how_far_numbers_may_lie_apart(policy, asked, started):
    assert tolerance_of("float32", "bfloat16") == tolerance_of("bfloat16") > tolerance_of("float16") > TOLERANCE
    with torch.no_grad():
        engine = started()
        policy.model.get_input_embeddings().weight.mul_(1.002)
    assert compared(engine, policy, asked).fault
    assert not compared(engine, policy, asked, tolerance=1.0).fault
    engine.dtype = "bfloat16"
    assert not compared(engine, policy, asked).fault

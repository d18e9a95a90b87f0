"""The greedy-token check: passes on the same weights and on ties, catches everything else."""

import copy

import pytest
import torch
from fakes import Fake, greedy

from s2d_lib.engines.answers import Answer
from s2d_lib.engines.greedy import MOVED, STILL, Comparison, Movement, compare, refuse_desync
from s2d_lib.engines.sampler import checked, tolerance_of
from s2d_lib.errors import StudyError
from s2d_lib.study.vllm import CHECK_TOKENS

TOLERANCE = 4e-4


@pytest.fixture
def prompts(policy, problems):
    return policy.prompt_ids([p.prompt for p in problems])


def compared(policy, prompts, answers, tolerance=TOLERANCE):
    eos = policy.tokenizer.eos_token_id
    return compare(policy.model, prompts, answers, eos=eos, tokens=CHECK_TOKENS, tolerance=tolerance)


def refuse(found, problems, policy, tolerance=TOLERANCE):
    ids = [p.id for p in problems]
    refuse_desync(found, tolerance, about="'student'", problems=ids, decode=policy.tokenizer.decode)


def answers_of(policy, prompts):
    return [greedy(policy.model, prompt, policy.tokenizer.eos_token_id, CHECK_TOKENS) for prompt in prompts]


def test_the_same_weights_pass_and_the_model_is_left_as_it_was(policy, prompts, problems):
    policy.model.train()
    answers = [greedy(policy.model.eval(), p, policy.tokenizer.eos_token_id, CHECK_TOKENS) for p in prompts]
    found = compared(policy, prompts, answers)
    assert found.ties == 0
    assert found.tokens > 20
    assert found.drift < 1e-5
    refuse(found, problems, policy)
    policy.model.train()
    compared(policy, prompts, answers)
    assert policy.model.training


def test_another_token_is_named_with_its_problem_and_place(policy, prompts, problems):
    answers = answers_of(policy, prompts)
    ids, own = list(answers[2].ids), answers[2].ids[1]
    ids[1] = next(i for i in range(5, 20) if i != own)
    answers[2] = answers[2]._replace(ids=ids)
    found = compared(policy, prompts, answers)
    assert found.parted[:4] == (2, 1, ids[1], own)
    said, meant = (policy.tokenizer.decode([i]) for i in (ids[1], own))
    sentence = f"'{problems[2].id}', token 2 of its greedy answer, it says '{said}' where transformers says '{meant}'"
    with pytest.raises(StudyError, match=sentence):
        refuse(found, problems, policy)


def test_a_near_tie_is_no_desync_and_is_counted(policy, prompts, problems):
    """Two tokens whose logits are made equal but for less than the tolerance: either may come first."""
    first = answers_of(policy, prompts)[0].ids[0]
    other = next(i for i in range(5, 20) if i not in (first, *prompts[0]))
    head = policy.model.get_input_embeddings().weight  # tied with the head
    with torch.no_grad():
        head[other] = head[first] * 0.999999
        at = policy.model(input_ids=torch.tensor([prompts[0]])).logits[0, -1].float().log_softmax(-1)
    assert 0 < abs(float(at[first] - at[other])) < TOLERANCE
    second = first if at[other] > at[first] else other
    rest = greedy(policy.model, [*prompts[0], second], policy.tokenizer.eos_token_id, CHECK_TOKENS - 1)
    tied = Answer([second, *rest.ids], [{second: float(at[second])}, *rest.log_probs])
    found = compared(policy, prompts[:1], [tied])
    assert (found.ties, found.parted) == (1, None)
    refuse(found, problems, policy)
    assert compared(policy, prompts[:1], [tied], tolerance=1e-9).parted[1] == 0


def test_weights_that_changed_too_little_for_another_token_are_caught_by_their_log_probabilities(
    policy, prompts, problems
):
    stale = answers_of(policy, prompts)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.002)
    found = compared(policy, prompts, stale)
    assert [a.ids for a in answers_of(policy, prompts)] == [a.ids for a in stale]
    assert found.parted is None
    with pytest.raises(StudyError, match=r"log-probabilities lie .* apart on the mean"):
        refuse(found, problems, policy)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_broken_log_probabilities_never_pass(policy, prompts, problems, value):
    answers = answers_of(policy, prompts)
    answers[0] = answers[0]._replace(log_probs=[{answers[0].ids[0]: value}, *answers[0].log_probs[1:]])
    with pytest.raises(StudyError, match="does not hold the weights"):
        refuse(compared(policy, prompts, answers), problems, policy)


def test_answers_that_end_elsewhere_are_refused(policy, prompts):
    eos = policy.tokenizer.eos_token_id
    for ids in ([], [7, eos, 7], [7, 8], [7] * (CHECK_TOKENS + 1)):
        with pytest.raises(StudyError, match="do not end where the policy's EOS"):
            compared(policy, prompts[:1], [Answer(ids, [{i: 0.0} for i in ids])])


def test_an_engine_is_checked_at_temperature_0_by_its_precision(policy, problems):
    engine = Fake(policy.model, policy.tokenizer.eos_token_id)
    assert checked(engine, policy, problems, about="'student'").parted is None
    assert (engine.asked[0].temperature, engine.asked[0].samples) == (0.0, 1)
    assert tolerance_of("float32", "bfloat16") == tolerance_of("bfloat16") > tolerance_of("float32")
    assert tolerance_of("bfloat16", given=0.5) == 0.5


def test_a_sure_models_update_shows_in_the_tokens_behind(policy, problems):
    """The first choices' log-probabilities are about 0 before and after it."""
    eos = policy.tokenizer.eos_token_id
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(10)  # ten times the logits
    engine = Fake(copy.deepcopy(policy.model), eos)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1.001)
    with pytest.raises(StudyError, match="log-probabilities lie"):
        checked(engine, policy, problems, about="'student'")


BFLOAT16 = tolerance_of("bfloat16")


def step(policy, factor: float = 1.002) -> None:
    """An update too small for other greedy tokens."""
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(factor)


def test_an_update_far_below_the_tolerance_that_did_not_arrive_shows_in_what_has_not_moved(policy, prompts, problems):
    movement, stale = Movement(), answers_of(policy, prompts)
    movement.refuse_standstill(compared(policy, prompts, stale, BFLOAT16), BFLOAT16, about="'student'")
    step(policy)
    found = compared(policy, prompts, stale, BFLOAT16)
    refuse(found, problems, policy, BFLOAT16)  # which sees nothing
    with pytest.raises(StudyError, match=r"of 'student': .* on the mean, its own by 0, so an update did not arrive"):
        movement.refuse_standstill(found, BFLOAT16, about="'student'")


def test_an_engine_that_follows_passes_whatever_it_rounds(policy, prompts):
    """Its log-probabilities are off by up to 0.1 nats, other ones after every update."""
    movement, noise = Movement(), torch.Generator().manual_seed(0)
    off = lambda value: value + 0.2 * (torch.rand((), generator=noise).item() - 0.5)  # noqa: E731
    for _ in range(8):
        answers = [
            a._replace(log_probs=[{token: off(value) for token, value in at.items()} for at in a.log_probs])
            for a in answers_of(policy, prompts)
        ]
        movement.refuse_standstill(compared(policy, prompts, answers, BFLOAT16), BFLOAT16, about="'student'")
        step(policy)


def check_of(engines: float, own: float, ids: tuple = (5,)) -> Comparison:
    """A check of one answer and one log-probability."""
    return Comparison(1, 0, 0.0, None, [list(ids)], {(0, 0, 5): (engines, own)})


def test_small_movements_add_up_and_each_missed_one_counts():
    own = MOVED  # of a tolerance of one nat
    movement = Movement()
    take = lambda engines, own, **more: movement.refuse_standstill(check_of(engines, own, **more), 1.0, about="'a'")  # noqa: E731
    take(-1.0, -1.0)
    take(-1.0, -1.0 - 0.7 * own)  # too little to tell
    with pytest.raises(StudyError, match="its own by 0, so"):
        take(-1.0, -1.0 - 1.4 * own)
    movement.before = None
    take(-1.0, -1.0)
    take(-1.0 - 1.01 * STILL * 2 * own, -1.0 - 2 * own)  # has moved enough: the next check is held against this one
    with pytest.raises(StudyError, match="its own by 0, so"):
        take(-1.0 - 1.01 * STILL * 2 * own, -1.0 - 4 * own)
    take(-1.0, -9.0, ids=(6,))  # another answer
    take(-1.0, -9.0, ids=(6,))

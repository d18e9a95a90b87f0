"""An engine of a checkpoint, by a stand-in for vLLM's `LLM`: what it is asked, what is sampled, what is left behind; and the
greedy-token check, which passes on the same weights and on ties, and catches everything else."""

import os

import pytest
import torch
from stand_ins import LLM, answered

from s2d_lib.errors import StudyError
from s2d_lib.runs import open_run
from s2d_lib.study.settings import CHECK_TOKENS, Decoding, Hardware, Vllm
from s2d_lib.vllm import PROBLEMS, Answer, Engine, compare, compared, context_for, refuse, sampler, tolerance_of


@pytest.fixture
def run(runs, overrides):
    return open_run("micro-full", "student", 0, overrides)


def test_an_engine_samples_as_the_rollouts_contract_says(engines, run, policy, problems):
    sampling, set_num_threads = run.resolved.sampling, torch.set_num_threads
    with sampler(run, policy, "evaluation", problems) as sample:
        (engine,) = engines
        options = {"samples": 3, "sampling": sampling, "show": False}
        rollouts, again, other = (sample(problems, seed=seed, **options) for seed in (3, 3, 4))
        alone = sample(problems[2:3], seed=3, **options)
        greedy = sample(problems, seed=3, decoding=Decoding(temperature=0), **options | {"samples": 1})
        assert not engine.ended
    assert engine.ended
    assert torch.set_num_threads is set_num_threads
    assert not run.path(".engine").exists()
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert [(r.problem, r.sample) for r in rollouts] == [(p.id, i) for p in problems for i in range(3)]
    eos = policy.tokenizer.eos_token_id
    assert all(r.finished == (r.ids[-1] == eos) and eos not in r.ids[:-1] for r in rollouts)
    assert all(r.text == policy.tokenizer.decode([i for i in r.ids if i != eos]) for r in rollouts)
    assert rollouts == again != other
    assert alone == rollouts[6:9]  # a problem's samples do not depend on what else is asked
    assert len({r.ids for r in rollouts}) > len(problems)
    check, *_, last = engine.asked
    assert (check.temperature, check.logprobs, check.n, last.temperature, last.logprobs) == (0, 5, 1, 0, None)
    assert all((one.stop_token_ids, one.ignore_eos) == ([eos], True) for one in engine.asked)
    assert len({one.seed for one in engine.asked[4 : 4 + len(problems)]}) == len(problems)
    assert engine.options["max_model_len"] == context_for(run.resolved, policy, problems)
    assert (engine.options["dtype"], engine.options["max_num_seqs"]) == ("float32", 64)
    assert len(greedy) == len(problems)
    said = run.facts["vllm"]["evaluation"]
    assert (said["version"], said["check"]["tokens"] > 10, said["check"]["drift"] < 1e-5) == ("0.31.0", True, True)


def disturbed(self):
    with torch.no_grad():
        self.model.get_input_embeddings().weight.mul_(1.01)


def broken(self):
    raise ValueError("no kernel for\nheads of size 24")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (disturbed, "vLLM does not hold the weights of 'student'"),
        (broken, r"could not start on this model \(no kernel for heads of size 24\): lower or"),
    ],
)
def test_nothing_is_sampled_by_an_engine_of_other_weights_or_one_that_does_not_start(
    engines, run, policy, problems, monkeypatch, fault, sentence
):
    made = LLM.__init__
    monkeypatch.setattr(LLM, "__init__", lambda self, *a, **options: (made(self, *a, **options), fault(self))[0])
    with pytest.raises(StudyError, match=sentence), sampler(run, policy, "evaluation", problems):
        pytest.fail("the block was entered")
    assert engines[0].ended == (fault is disturbed)
    assert not run.path(".engine").exists()
    assert "vllm" not in run.facts


def test_evaluation_and_teacher_rollouts_end_to_end(engines, teacher_runs):
    teacher_runs()
    assert [engine.ended for engine in engines] == [True, True]


# The check

TOLERANCE = tolerance_of("float32")


@pytest.fixture
def asked(problems):
    return problems[:PROBLEMS]


def answers_of(policy, asked):
    return [answered(policy.model, p, policy.tokenizer.eos_token_id, CHECK_TOKENS) for p in policy.prompt_ids(asked)]


def test_the_same_weights_pass_and_another_token_is_named_with_its_problem_and_place(policy, asked):
    answers = answers_of(policy, asked)
    policy.model.train()
    found = compare(policy, asked, answers, TOLERANCE)
    assert policy.model.training  # left as it was
    assert (found.tokens, found.fault) == (sum(len(a.ids) for a in answers), "")
    assert found.drift < 1e-5
    refuse(found.fault, "'student'")
    policy.model.eval()
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


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None])
def test_broken_log_probabilities_and_none_at_all_never_pass(policy, asked, value):
    answers = answers_of(policy, asked)
    answers[0] = answers[0]._replace(log_probs=[{answers[0].ids[0]: value}, *answers[0].log_probs[1:]])
    if value is None:
        answers = [Answer([], []) for _ in answers]
    assert compare(policy, asked, answers, TOLERANCE).fault


@pytest.mark.parametrize("sure", [False, True])
def test_updates_too_small_for_another_token_are_caught_within_what_the_coarsest_precision_leaves(
    engines, policy, asked, tmp_path, sure
):
    """By the log-probabilities; where the first choices' are about 0 before and after, by those of the tokens behind."""
    norm, weights = policy.model.model.norm.weight, policy.model.parameters()
    with torch.no_grad():
        if sure:
            norm.mul_(10)  # ten times the logits
        engine = Engine(policy, Vllm(), Hardware(), batch=64, context=64, place=tmp_path / "weights")
        stale = answers_of(policy, asked)
        assert compared(engine, policy, asked).fault == ""
        for weight in [norm] if sure else weights:
            weight.mul_(1.001 if sure else 1.002)
    assert [a.ids for a in answers_of(policy, asked)] == [a.ids for a in stale]
    assert "transformers' but the log-probabilities lie" in compared(engine, policy, asked).fault
    assert not compared(engine, policy, asked, tolerance=1.0).fault
    assert tolerance_of("float32", "bfloat16") == tolerance_of("bfloat16") > tolerance_of("float16") > TOLERANCE
    engine.dtype = "bfloat16"
    assert not compared(engine, policy, asked).fault

"""An engine of a checkpoint, by a stand-in for vLLM's `LLM`: what it is asked, what is sampled, what is left behind."""

import os

import pytest
import torch
from stand_ins import LLM

from s2d_lib.errors import StudyError
from s2d_lib.runs import open_run
from s2d_lib.study.settings import Decoding
from s2d_lib.vllm import context_for, sampler


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


def test_an_engine_of_other_weights_is_caught_before_anything_is_sampled(engines, run, policy, problems, monkeypatch):
    made = LLM.__init__

    def disturbed(self, *args, **options):
        made(self, *args, **options)
        with torch.no_grad():
            self.model.get_input_embeddings().weight.mul_(1.01)

    monkeypatch.setattr(LLM, "__init__", disturbed)
    caught = pytest.raises(StudyError, match="vLLM does not hold the weights of 'student'")
    with caught, sampler(run, policy, "evaluation", problems):
        pytest.fail("the block was entered")
    assert engines[0].ended
    assert "vllm" not in run.facts


def test_an_engine_that_does_not_start_is_one_sentence(engines, run, policy, problems, monkeypatch):
    def refused(self, *args, **options):
        raise ValueError("no kernel for\nheads of size 24")

    monkeypatch.setattr(LLM, "__init__", refused)
    sentence = r"could not start on this model \(no kernel for heads of size 24\): lower or"
    with pytest.raises(StudyError, match=sentence), sampler(run, policy, "evaluation", problems):
        pytest.fail("the block was entered")
    assert not run.path(".engine").exists()


def test_evaluation_and_teacher_rollouts_end_to_end(engines, teacher_runs):
    teacher_runs()
    assert [engine.ended for engine in engines] == [True, True]

"""The table that `make vllm-log` writes: an engine of the same weights passes, one of older weights is refused."""

import copy

import pytest
import torch
from fakes import Fake

from s2d_lib.bench.vllm import CASES, row, successors
from s2d_lib.study import resolve


def test_an_engine_in_sync_and_one_that_lags_behind(policy, problems):
    engine = Fake(copy.deepcopy(policy.model.eval()), policy.tokenizer.eos_token_id)
    before = row("before", engine, policy, problems[:2])
    assert (before["engine"], before["answers"], before["equal"], before["check"]) == ("before", 2, 2, "passed")
    assert before["drift"] < 1e-5
    assert before["tokens_per_second"] > 0
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.05)
    after = row("after", engine, policy, problems[:2])
    assert after["check"] == "refused"
    assert after["drift"] > 1e-3


def test_successors_have_their_answers():
    found = {p.id: p for p in successors()}
    assert found["after/12"].answer == "13"
    assert found["after/12"].prompt.endswith("What comes after 12?\n")
    assert all(11 <= int(p.answer) <= 99 for p in found.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.profile)
def test_the_steps_are_ones_that_the_profiles_take(case):
    resolved = resolve(case.profile, "student.grpo", 0, case.overrides)
    assert (resolved.params["steps"], resolved.params["batch"] // resolved.params["group_size"]) == (1, 4)

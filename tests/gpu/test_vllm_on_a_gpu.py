"""vLLM on a GPU for real: TRL's engine, whose weights are updated in place, and a fresh one; skipped without a GPU or vLLM."""

import importlib.util
import os

import pytest
import torch

from s2d_lib.errors import StudyError
from s2d_lib.notebook import evaluate, finish
from s2d_lib.runs import open_run
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.training import train
from s2d_lib.study.load import deep_merge
from s2d_lib.vllm import SyncCheck

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.device_count(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: pip install 's2d[vllm]'"
    ),
]

# Two steps after either of which an engine that kept the weights of before would be told by its log-probabilities.
TWO_STEPS = {"steps": 2, "warmup_steps": 0, "batch": 32, "micro_batch": 32, "group_size": 8, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def left_as_it_was():
    """TRL's engine leaves a process group and variables in which the next trainer would see a launcher."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


def test_two_grpo_steps_by_an_engine_that_is_updated_in_place_and_an_evaluation_by_a_fresh_one(runs, tiny, monkeypatch):
    own = {"stages": {"sparse_rl": TWO_STEPS}, "sampling": {"engine": "vllm", "batch": 64}}
    overrides = deep_merge(tiny, own | {"hardware": {"device": "cuda", "dtype": "float32"}})
    steps, check, end = [], SyncCheck.check, SyncCheck.on_train_end

    def watched(self):
        check(self)
        steps.append(self.trainer.state.global_step)

    def asked_once_more(self, args, state, control, **kwargs):
        """After the last step, and there also about weights that the engine was not given."""
        self.sync()
        norm = self.trainer.model.model.norm.weight
        trained = norm.detach().clone()
        with torch.no_grad():
            norm.mul_(1.5)
        with pytest.raises(StudyError, match=r"vLLM does not hold the weights of 'student\.grpo' at step 2"):
            self.check()
        with torch.no_grad():
            norm.copy_(trained)
        end(self, args, state, control, **kwargs)

    monkeypatch.setattr(SyncCheck, "check", watched)
    monkeypatch.setattr(SyncCheck, "on_train_end", asked_once_more)
    open_run("micro", "student", 0, overrides).finish()
    run = open_run("micro", "student.grpo", 0, overrides)
    inputs = prepare(run)
    before = {name: weights.detach().cpu().clone() for name, weights in inputs.policy.model.named_parameters()}
    assert train(run, inputs)["step"].tolist() == [1, 2]
    assert steps == [0, 1, 2]
    after = dict(inputs.policy.model.named_parameters())
    assert any(not torch.equal(after[name].cpu(), weights) for name, weights in before.items())
    evaluate(run, inputs)  # in the process in which TRL's engine has ended
    finish(run, inputs)
    assert run.finished.record["vllm"]["evaluation"]["check"]["tokens"] > 10

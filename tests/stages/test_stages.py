"""The stages on real TRL trainers and the released micro models, a few steps each: accounts, order, seeds and interruptions."""

import shutil
from collections import Counter

import pandas as pd
import pytest
import torch
from trl import SFTTrainer

from s2d_lib.models.policy import save_policy
from s2d_lib.plan.cost import counts
from s2d_lib.runs import file_hash, find_run, open_run
from s2d_lib.sampling import read_rollouts
from s2d_lib.stages.common import LiveCurve
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.rl import SparseTrainer
from s2d_lib.stages.training import train
from s2d_lib.study import Resolved, resolve
from s2d_lib.study.load import deep_merge
from tests.stages.conftest import Killed

pytestmark = pytest.mark.slow


def test_sparse_rl_accounts_for_every_label_and_the_same_seed_gives_the_same_bytes(make):
    run = make("student.grpo", once=True)
    gradings = pd.read_json(run.path("gradings.jsonl"), lines=True)
    assert run.record["label_use"]["gradings"] == len(gradings) == 4 * 16  # steps x rollouts
    assert gradings.groupby("step").size().tolist() == [16] * 4
    assert set(gradings.groupby(["step", "problem"]).size()) == {4}  # whole groups
    assert (
        list(run.record["label_use"]["problems"].values()) == [4] * 16
    )  # 4 steps of 4 problems: the pool exactly once
    assert run.record["sampled"] == {"sequences": 64, "tokens": int(gradings["tokens"].sum())}
    assert run.record["optimizer_steps"] == 4
    metrics = pd.read_csv(run.path("metrics.csv"))
    assert metrics["reward"].to_numpy() == pytest.approx(gradings.groupby("step")["correct"].mean().to_numpy())
    assert (metrics["formed"] >= metrics["reward"]).all()
    shutil.rmtree(run.folder)
    again, other = make("student.grpo"), make("student.grpo", seed=1)
    for name in ("model/model.safetensors", "evaluation.csv"):
        assert again.record["files"][name] == run.record["files"][name] != other.record["files"][name]


def test_four_updates_use_one_sampling_each_rollout_in_one_of_them(make, tiny, monkeypatch):
    used, loss = [], SparseTrainer.compute_loss

    def watched(self, model, inputs, *args, **kwargs):
        used.append((self.state.global_step, inputs["completion_mask"].sum().item()))
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SparseTrainer, "compute_loss", watched)
    stage = {"steps": 6, "steps_per_sampling": 4, "save_steps": 4, "mask_truncated": False}
    run = make("student.grpo", overrides=deep_merge(tiny, {"stages": {"sparse_rl": stage}}))
    gradings = pd.read_json(run.path("gradings.jsonl"), lines=True)
    assert gradings.groupby("step").size().to_dict() == {0: 64, 4: 64}  # the second's last two steps are not taken
    assert run.record["label_use"]["gradings"] == run.record["sampled"]["sequences"] == 128
    assert counts(Resolved.model_validate(run.record["resolved"])).sequences == 128
    tokens = pd.DataFrame(used, columns=["step", "tokens"]).groupby("step")["tokens"].agg(["size", "sum"])
    assert tokens["size"].tolist() == [2] * 6  # micro-batches
    assert tokens["sum"][:4].sum() == gradings[gradings["step"] == 0]["tokens"].sum()
    metrics, right = pd.read_csv(run.path("metrics.csv")), gradings.groupby("step")["correct"].mean()
    assert metrics["reward"].to_numpy() == pytest.approx([right[0]] * 4 + [right[4]] * 2)
    assert (metrics["seconds/sampling"] > 0).tolist() == [True, False, False, False, True, False]


def test_the_reference_is_the_policy_as_it_begins_also_where_that_is_adapters(make, tiny):
    adapters = {"lora": {"rank": 2, "alpha": 4, "save": "adapter"}, "learning_rate": 0.1}
    penalty = {"match": {"stage": "sparse_rl", "role": "student"}, "set": {"kl_coefficient": 0.1}}
    overrides = deep_merge(tiny, {"stages": {"opd": adapters}, "rules": [penalty]})
    run = make("student.bridge.rl_teacher.grpo", overrides=overrides)
    kl = pd.read_csv(run.path("metrics.csv"))["kl"]
    assert kl[0] < 1e-6 < kl.iloc[-1]


def test_the_dense_stages_read_stored_rollouts_or_sample_groups_and_sft_trains_on_the_stored_tokens_in_their_order(
    make, tiny, monkeypatch
):
    asked, generate = [], DenseTrainer._generate_single_turn
    samplers, train_sampler = [], SFTTrainer._get_train_sampler

    def watched(self, prompt_ids, *args, **kwargs):
        asked.extend(map(tuple, prompt_ids))
        return generate(self, prompt_ids, *args, **kwargs)

    def watched_sampler(self, *args):
        samplers.append(train_sampler(self, *args))
        return samplers[-1]

    monkeypatch.setattr(DenseTrainer, "_generate_single_turn", watched)
    monkeypatch.setattr(SFTTrainer, "_get_train_sampler", watched_sampler)
    grouped = deep_merge(tiny, {"stages": {"opd": {"estimator": "sampled_token", "group_size": 4}}})
    bridge, control = (make(f"student.{name}.rl_teacher", 0, grouped) for name in ("bridge", "teacher_sample_sft"))
    warm = find_run(resolve("micro-full", "student.warm.rl_teacher", 0, grouped))
    assert [run.record["sampled"]["sequences"] for run in (warm, bridge, control)] == [0, 4 * 16, 0]
    assert warm.record["trained_tokens"] > 0
    assert not any("label_use" in run.record for run in (warm, bridge, control))
    fresh = asked[-4 * 16 :]  # where the warmup is made here, its stored ones stand before
    assert all(len(set(fresh[i : i + 4])) == 1 for i in range(0, len(fresh), 4))  # a group is of one step
    assert list(Counter(fresh).values()) == [4] * 16  # 4 steps of 4 prompts: each of the 16 once
    rollouts, how = read_rollouts(
        find_run(resolve("micro-full", "teacher.rl.rollouts.full", 0, grouped)).path("rollouts.parquet")
    )
    assert (len(rollouts), how["teacher"]) == (32, "teacher.rl")
    assert list(samplers[0]) == list(range(64))  # as scheduled: 64 rows of 32 rollouts, every rollout exactly twice
    assert control.record["trained_tokens"] == 2 * sum(len(r.ids) for r in rollouts)


SHARED = {"sparse_rl": {"steps_per_sampling": 2, "kl_coefficient": 0.1}}
TOP_K = {"opd": {"estimator": "topk_tail", "top_k": 8}}


@pytest.mark.parametrize(("checkpoint", "stages"), [("student.grpo", SHARED), ("student.bridge.raw_teacher", TOP_K)])
def test_an_interrupted_run_ends_in_the_same_bytes(ends_in_the_same_bytes, tiny, checkpoint, stages):
    ends_in_the_same_bytes(checkpoint, deep_merge(tiny, {"stages": stages}))


def test_an_interrupted_cell_that_is_run_again_ends_in_the_same_bytes(make, tiny, monkeypatch):
    """In one kernel, before there is a checkpoint: what the first attempt has made of the model is not gone on with."""
    whole = make("student.grpo", once=True)
    shutil.rmtree(whole.folder)

    def interrupt(self, args, state, control, **kwargs):
        raise KeyboardInterrupt

    run = open_run("micro-full", "student.grpo", 0, tiny)
    inputs = prepare(run)
    with monkeypatch.context() as patch:
        patch.setattr(LiveCurve, "on_step_end", interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt):
            train(run, inputs)
    train(run, inputs)
    for name in ("model/model.safetensors", "gradings.jsonl", "validation.csv"):
        assert file_hash(run.path(name)) == whole.record["files"][name], name


def test_a_kill_after_training_loses_no_account_and_a_finished_run_is_its_result(make, tiny, monkeypatch):
    def die(*args):
        save_policy(*args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("s2d_lib.stages.common.save_policy", die)
        with pytest.raises(Killed):
            make("student.grpo")
    record = make("student.grpo").record
    assert record["optimizer_steps"] == 4
    assert record["label_use"]["gradings"] == record["sampled"]["sequences"] == 64
    run = open_run("micro-full", "student.grpo", 0, tiny)
    result, base = prepare(run), prepare(open_run("micro-full", "student", 0, tiny)).policy.model
    assert not torch.equal(result.policy.model.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert len(train(run, result)) == 4


def test_one_problem_at_hand_is_used_all_over_a_step(make, tiny):
    """The least that `labels` and `prompts` can be: it is taken several times in a step."""
    one = deep_merge(tiny, {"problems": {"labels": 1, "prompts": 1}})
    rl, warm = (make(name, overrides=one).record for name in ("student.grpo", "student.warm.raw_teacher"))
    stored = find_run(resolve("micro-full", "teacher.rollouts.full", 0, one)).record
    assert {record["problems"]["label_pool"]["size"] for record in (rl, stored, warm)} == {1}
    assert list(rl["label_use"]["problems"].values()) == [64]  # 4 groups of 4 in each of 4 steps
    assert (stored["sampled"]["sequences"], warm["optimizer_steps"]) == (2, 4)

"""The stage on the released micro models, and its trainer: one step is the same however it is cut, and the limiting cases."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset
from fixed_rollouts import MIXED, outcome, questions, trainer
from trl import GRPOTrainer

from s2d_lib.errors import StudyError
from s2d_lib.runs import open_run
from s2d_lib.stages import self_distillation as module
from s2d_lib.stages.self_teacher import FILE
from s2d_lib.study.load import deep_merge

pytestmark = pytest.mark.slow

METHODS = ("grpo", "sdpo", "srpo", "advantage_mix")


def with_stage(tiny, **changes):
    return deep_merge(tiny, {"stages": {"self_distillation": changes}})


# The stage


def test_an_interrupted_run_ends_in_the_same_bytes_and_accounts_for_labels_time_and_tokens(
    ends_in_the_same_bytes, tiny
):
    # One checkpoint where the self-teacher has followed for two steps, and then two more, in which it is asked
    changed = with_stage(tiny, batch=32, micro_batch=16, group_size=8, ema_rate=0.5)
    run, kept = ends_in_the_same_bytes("student.srpo", changed)
    metrics, record = pd.read_csv(run.path("metrics.csv")), run.record
    assert metrics["routed/sdpo"][1:].min() > 0
    teacher, policy = (kept[name]["model.norm.weight"] for name in (FILE, "model.safetensors"))
    assert not torch.equal(teacher, policy)
    assert record["label_use"]["gradings"] == record["sampled"]["sequences"] == 4 * 32
    assert metrics["self_teacher/tokens"].sum() > 0
    assert (metrics["seconds/step"] > metrics["seconds/sampling"]).all()
    assert (metrics["routed/grpo"] + metrics["routed/sdpo"]).tolist() == pytest.approx([1.0] * 4)
    assert (metrics["accuracy"] == metrics["reward"]).all()
    asked = metrics[metrics["self_teacher/tokens"] > 0]
    assert (asked[["self_teacher/kl", "self_teacher/entropy", "self_teacher/student_entropy", "entropy"]] > 0).all(None)


def test_a_length_collapse_stops_the_run_and_keeps_its_checkpoints(make, tiny):
    changed = with_stage(tiny, length_floor=19, length_window=3)
    with pytest.raises(StudyError, match=r"collapsed to [\d.]+ tokens .* 3 steps up to step 3, under the floor of 19:"):
        make("student.srpo", overrides=changed)
    assert (open_run("micro-full", "student.srpo", 0, changed).folder / "trainer" / "checkpoint-2").is_dir()


def test_a_collapse_is_seen_over_an_interruption():
    rows = [{"completions/mean_length": length} for length in (9, 2, 2)]
    state, args = SimpleNamespace(log_history=rows, global_step=3), SimpleNamespace(output_dir="here")
    module.StopOnCollapse(4, 3).on_log(args, state, None, logs=rows[-1])  # 4.33 on average
    with pytest.raises(StudyError, match=r"collapsed to 2\.0"):
        module.StopOnCollapse(4, 2).on_log(args, state, None, logs=rows[-1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"group_size": 1}, "a group needs 2 rollouts or more"),
        ({"reprompt": "{solution} " + "# " * 60 + "{question}"}, "tokens without any solution, but reprompts may have 44"),
        ({"feedback_reprompt": "{feedback} {question}"}, "no problem of its label pool has any feedback"),
        ({"steps_per_sampling": 3}, "steps_per_sampling 3 does not divide save_steps 2"),
    ],
)  # fmt: skip
def test_what_can_not_work_is_said_before_training(make, tiny, monkeypatch, changes, sentence):
    monkeypatch.setattr(module, "run_trainer", lambda *a, **k: pytest.fail("training has begun"))
    with pytest.raises(StudyError, match=sentence) as error:
        make("student.srpo", overrides=with_stage(tiny, **changes))
    assert "\n" not in str(error.value)


# The trainer


def same(one: dict, other: dict, tolerance=5e-6) -> None:
    """Losses, gradients and weights of two trainings."""
    # A policy loss is a difference of numbers near 1: what counts is the error against those
    assert one["losses"] == pytest.approx(other["losses"], rel=tolerance, abs=tolerance)
    for mine, theirs in zip(one["gradients"], other["gradients"], strict=True):
        assert torch.linalg.norm(mine - theirs) < tolerance * torch.linalg.norm(theirs)
    for name, value in other["weights"].items():
        torch.testing.assert_close(one["weights"][name], value, rtol=tolerance, atol=tolerance)


OPTIONS = [(method, {}) for method in METHODS]
OPTIONS += [("srpo", {"dynamic_weighting": False}), ("sdpo", {"sdpo_on": "failed"})]


@pytest.mark.parametrize(("method", "options"), OPTIONS)
def test_a_step_is_the_same_in_1_or_8_micro_batches(tmp_path, method, options):
    whole = outcome(trainer(tmp_path, method, MIXED, 16, **options))
    assert whole["gradients"][0].abs().max() > 1e-4
    parts = outcome(made := trainer(tmp_path, method, MIXED, 2, **options))
    lengths = {int(batch["completion_mask"].sum()) for batch in made._buffered_inputs}
    assert len(lengths) > 1  # unequal token counts
    same(parts, whole)
    metrics = whole["metrics"][0]
    for name, value in metrics.items():
        if "time" not in name and "seconds" not in name:
            assert parts["metrics"][0][name] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), name
    assert ("self_teacher/mean_weight" in metrics) == (method == "srpo" and not options)  # of dynamic weighting
    assert (metrics["routed/sdpo"] > 0) == (method in ("sdpo", "srpo"))
    assert (metrics["routed/grpo"] > 0) == (method != "sdpo")


@pytest.mark.parametrize("method", ["grpo", "srpo"])
def test_two_steps_on_one_sampling_too(tmp_path, method):
    rewards, more = [*MIXED, *MIXED[::-1]], {"steps": 2, "steps_per_sampling": 2}
    # So large a step that the second one's ratios are far from 1
    far = {"learning_rate": 0.5}
    whole = outcome(trainer(tmp_path, method, rewards, 16, config=far, **more))
    parts = outcome(trainer(tmp_path, method, rewards, 4, config=far, **more))
    assert len(whole["losses"]) == 2
    same(parts, whole, 2e-5)
    # A step without a sampling of its own tells of the sampling that it uses
    assert whole["metrics"][1]["reward"] == whole["metrics"][0]["reward"] == pytest.approx(sum(rewards) / 32)
    unclamped = {"ratio_clamp": None} if method == "srpo" else {"epsilon_low": 0.01, "epsilon_high": 0.01}
    other = outcome(trainer(tmp_path, method, rewards, 16, config=far, **more, **unclamped))
    assert other["losses"][0] == pytest.approx(whole["losses"][0], rel=1e-5)
    assert other["losses"][1] != pytest.approx(whole["losses"][1], rel=1e-4)


def test_importance_weights_multiply_grpos_losses_and_no_others(tmp_path, monkeypatch):
    score = GRPOTrainer._generate_and_score_completions

    def weighted(by):
        def weigh(self, inputs):
            batch = score(self, inputs)
            ratio = torch.full_like(batch["completion_mask"], by, dtype=torch.float)
            return batch | {"importance_sampling_ratio": ratio}

        monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", weigh)
        return outcome(trainer(tmp_path, "srpo", MIXED, 16, config={"max_grad_norm": 1e9}))["gradients"][0]

    once, twice, none = weighted(1.0), weighted(2.0), weighted(0.0)
    torch.testing.assert_close(twice - once, once - none, rtol=1e-4, atol=1e-6)
    assert (once - none).abs().max() > 1e-4
    assert none.abs().max() > 1e-4  # what the SDPO tokens have


def test_srpo_with_every_rollout_correct_is_grpo_to_the_byte(tmp_path):
    rewards = [1, 1.5, 2, 1, 1, 1, 3, 1] * 2
    srpo = outcome(trainer(tmp_path, "srpo", rewards, 4, threshold=1))
    grpo = outcome(trainer(tmp_path, "grpo", rewards, 4, threshold=1))
    assert torch.equal(srpo["gradients"][0], grpo["gradients"][0])
    assert grpo["gradients"][0].any()
    assert all(torch.equal(value, grpo["weights"][name]) for name, value in srpo["weights"].items())
    assert srpo["metrics"][0]["routed/sdpo"] == 0
    assert math.isnan(srpo["metrics"][0]["self_teacher/mean_weight"])


@pytest.mark.parametrize("method", METHODS[1:])
def test_with_every_rollout_wrong_nothing_is_learned(tmp_path, method):
    result = outcome(trainer(tmp_path, method, [0] * 16, 8))
    assert result["losses"] == [0]
    assert all(torch.equal(value, result["before"][name]) for name, value in result["weights"].items())
    assert result["metrics"][0]["routed/sdpo"] == 0


def test_who_is_shown_what(tmp_path):
    made = trainer(tmp_path, "srpo", MIXED, 16)
    made.train()
    batch, tokenizer = made._buffered_inputs[0], made.processing_class
    prompts = [p.prompt for p in questions(4)]
    for i, ids in enumerate(batch["completion_ids"].tolist()):
        place = made.given.index([token for token, m in zip(ids, batch["completion_mask"][i], strict=True) if m])
        shown = tokenizer.decode(batch["teacher_prompt_ids"][i][batch["teacher_prompt_mask"][i].bool()])
        group = range(place - place % 4, place - place % 4 + 4)
        if MIXED[place] or not any(MIXED[j] for j in group):
            assert shown == ""
            assert not batch["sdpo"][i]
            continue
        ahead = next(j for j in [*range(place + 1, group.stop), *range(group.start, place)] if MIXED[j])
        answer = tokenizer.decode(made.given[ahead], skip_special_tokens=True)
        assert shown == f"{answer} {prompts[place // 4]}"


def test_feedback_in_place_of_a_sibling(tmp_path):
    rows = [{"prompt": p.prompt, "question": p.prompt, "feedback": ""} for p in questions(4)]
    rows[1]["feedback"] = "v1 v2"
    made = trainer(tmp_path, "srpo", MIXED, 16, feedback_reprompt="{feedback} # {question}")
    made.train_dataset = Dataset.from_list(rows)
    made.train()
    batch = made._buffered_inputs[0]
    # Group 2 has no correct rollout but feedback: its four join the five that have a sibling
    assert int(batch["sdpo"].sum()) == 5 + 4
    texts = made.processing_class.batch_decode(batch["teacher_prompt_ids"], skip_special_tokens=True)
    assert sum(text == f"v1 v2 # {rows[1]['prompt']}" for text in texts) == 4

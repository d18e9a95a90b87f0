"""Transfer from a teacher of another vocabulary: the same texts in other tokens, spans of them, and what can't be aligned."""

import contextlib
import dataclasses

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl.experimental.gold.gold_trainer import ULDLoss

from s2d_lib.errors import StudyError
from s2d_lib.losses import Pair, linear_divergence
from s2d_lib.models.micro_family import build_tokenizer, make_base
from s2d_lib.models.policy import load_policy
from s2d_lib.models.vocabularies import check_words
from s2d_lib.problems.base import Problem
from s2d_lib.problems.micro import world_of
from s2d_lib.problems.world import corpus
from s2d_lib.runs import open_run
from s2d_lib.sampling import Rollout
from s2d_lib.stages.dense import dense_trainer
from s2d_lib.stages.gold import read
from s2d_lib.stages.inputs import by_text, prepare
from s2d_lib.stages.sft import likeliest
from s2d_lib.stages.states import head_of
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.load import deep_merge
from s2d_lib.study.resolve import refuse_what_is_not_shared
from s2d_lib.study.settings import Hardware, RoleModel

PROFILES = ("micro-full", "micro-llama", "micro-arithmetic", "micro-selection", "micro-conversion", "micro-tool-calls")
WORLDS = {profile: world_of(load_profile(profile).problems) for profile in PROFILES}
TOKENIZERS = {profile: [build_tokenizer(world, split) for split in (False, True)] for profile, world in WORLDS.items()}
WORDS, PIECES = TOKENIZERS["micro-full"]
SPLIT = {"split_teacher": {"model": "micro/chains-teacher"}}


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from(PROFILES))
def test_both_vocabularies_spell_every_text_of_a_world_alike(data, profile):
    world = WORLDS[profile]
    words = data.draw(st.lists(st.sampled_from(world.words), min_size=1))
    for text in (" ".join(words), " ".join(corpus(world, 1, {"right": 1.0}, 0.0, [3], len(words))[0])):
        for tokenizer in TOKENIZERS[profile]:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            content = [word for word in text.split() if word not in world.special]
            assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(content)
    assert TOKENIZERS[profile][0].get_vocab() != TOKENIZERS[profile][1].get_vocab()


def test_words_and_pieces_are_aligned_where_both_end_a_token():
    texts, ended = ["v3 f1 v17", "# v4"], [True, False]
    one, other = (read(t, [t("v3 f1 ?")["input_ids"]] * 2, texts, ended, "cpu") for t in (WORDS, PIECES))
    assert PIECES.convert_ids_to_tokens(other.ids[0, 1:]) == ["v", "##3", "f", "##1", "v", "##1", "##7", "<eos>"]
    assert other.offsets[0, 1:, 1].tolist() == [1, 2, 4, 5, 7, 8, 9, 9]
    pairs = [[r.offsets[i][r.labels[i] != -100].tolist() for r in (one, other)] for i in range(2)]
    spans = [ULDLoss._align_by_byte_offsets(*pair) for pair in pairs]
    assert spans[0] == ([[0], [1], [2], [3]], [[0, 1], [2, 3], [4, 5, 6], [7]])
    assert spans[1] == ([[0], [1]], [[0], [1, 2]])
    for r in (one, other):
        assert r.labels[:, 0].tolist() == [-100, -100]
        assert (r.prompt_and_text[:, -r.ids.shape[1] :] == r.ids).all()
        assert (r.labels[r.labels != -100] == r.ids[r.labels != -100]).all()


def test_offsets_are_bytes_in_a_vocabulary_of_bytes_and_in_one_of_words():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bytes_ = trainers.BpeTrainer(
        special_tokens=["<eos>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["sum sum summe"], bytes_)
    levels = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    words = Tokenizer(models.WordLevel({"<eos>": 0, "<pad>": 1, "süß": 2, "sum": 3}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    ends = [read(t, [[0]], ["süß sum"], [True], "cpu").offsets[0, 1:, 1].tolist() for t in (levels, whole)]
    assert ends[1] == [5, 9, 9]
    assert ends[0] == [1, 2, 3, 4, 5, 9, 9]


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> str:
    """The folder of a model that has read a little, character by character."""
    folder = tmp_path_factory.mktemp("bases")
    spec = {"width": 32, "layers": 1, "heads": 1, "mlp": 32, "init": 0.1, "steps": 3, "batch": 4, "learning_rate": 1e-3}
    made = {"pretraining": {"models": {"split": spec | {"seed": 0, "split": True}}}}
    assert make_base("micro-full", "split", folder, made)["model"]["split"]
    return str(folder / "split")


def playing(tiny: dict, **models_) -> dict:
    """Overrides by which models play the roles."""
    more = [
        {"match": {"role": "split_teacher"}, "set": {"sampling": {"max_new_tokens": 40}}},
        {"match": {"role": "split_teacher", "stage": "sparse_rl"}, "set": {"steps": 2}},
    ]
    return deep_merge(tiny, {"roles": {role: {"model": model} for role, model in models_.items()}, "rules": more})


@pytest.mark.slow
def test_in_a_shared_vocabulary_gold_is_the_jsd_and_of_a_model_with_itself_nothing(make, tiny):
    overrides = deep_merge(tiny, {"roles": SPLIT})
    for parent in ("student", "split_teacher.rl"):
        make(parent, overrides=overrides, once=True)
    run = open_run("micro-full", "student.gold.split_teacher", 0, overrides)
    trainer = dense_trainer(run, inputs := prepare(run))
    torch.manual_seed(0)
    batch = trainer._generate_and_score_completions([trainer.train_dataset[i] for i in range(16)])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    sides, mask = [], batch["completion_mask"]
    for policy in (inputs.policy, inputs.teacher):
        states = policy.model.base_model(ids, attention_mask=attention).last_hidden_state
        sides += [states[:, -mask.shape[1] - 1 : -1], head_of(policy.model)]
    each = linear_divergence(Pair(*sides, mask=mask), beta=0.5).per_token
    wanted = ((each * mask).sum(1) / mask.sum(1)).mean()
    loss, _, _, tokens = trainer.loss_of(trainer.model, batch)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert wanted.item() > 1e-3
    assert tokens == mask.sum()
    trainer.teacher = inputs.policy
    itself, *_ = trainer.loss_of(trainer.model, batch)
    itself.backward()
    assert abs(itself.item()) < 1e-6
    assert max(p.grad.abs().max() for p in trainer.model.parameters()) < 1e-5


@pytest.mark.slow
def test_gold_trains_on_the_students_rollouts_towards_a_teacher_of_other_tokens(make, tiny, split):
    run = make("student.gold.split_teacher", overrides=playing(tiny, split_teacher=split))
    metrics, validation = (pd.read_csv(run.path(f"{name}.csv")) for name in ("metrics", "validation"))
    assert run.record["sampled"]["sequences"] == 16 * run.record["optimizer_steps"] == 16 * 8  # as the whole bridge
    assert (metrics[["loss", "entropy"]] > 0).all(axis=None)
    assert "argmax_agreement" not in metrics
    assert not [column for column in validation if "states" in column]


@pytest.mark.slow
def test_a_teachers_likeliest_text_is_learned_in_the_students_own_tokens(make, tiny, split):
    overrides = playing(tiny, student=split, split_teacher="micro/chains-teacher")
    run = make("student.seq_kd.split_teacher", overrides=overrides)
    stored = open_run("micro-full", "student.seq_kd.split_teacher", 0, overrides).parent("rollouts")
    texts = pd.read_parquet(stored.path("rollouts.parquet"))
    texts = texts.loc[texts.groupby("problem")["log_prob"].idxmax()]
    assert len(texts) == 16
    spelled = sum(len(text.replace(" ", "")) for text in texts["text"]) + texts["finished"].sum()
    assert run.record["trained_tokens"] == 4 * spelled  # 4 steps of 16
    assert run.record["by_text"] == {"rollouts": 32, "left_out": 0}


@pytest.mark.slow
def test_what_can_not_be_aligned_is_refused_by_its_first_word(make, tiny, split):
    unread = playing(tiny, student=split, split_teacher="micro/chains-teacher")
    with pytest.raises(StudyError, match=r"^[^\n]*the teacher's tokenizer has no tokens for 'v',[^\n]*$"):
        make("student.gold.split_teacher", overrides=unread)
    unasked = open_run("micro-full", "split_teacher", 0, playing(tiny, split_teacher="micro/llama-teacher"))
    with pytest.raises(StudyError, match="the split_teacher's tokenizer has no tokens for 'v"):
        prepare(unasked)


@pytest.mark.parametrize(
    ("student", "prompt", "answer", "stored", "sentence"),
    [
        ("chains-student", "v3 f1 ?", "v2", False, None),
        ("chains-student", "v3 w3 ?", "v2", True, "the teacher's tokenizer has no tokens for 'w3'"),
        ("chains-student", "v3 f1 ?", "w2", True, "the student's tokenizer has no tokens for 'w2'"),
        ("llama-student", "v3 f1 ?", "v2", True, "the student's tokenizer has no tokens for 'v3'"),
        ("llama-student", "v3 f1 ?", "v2", False, "the teacher's tokenizer has no tokens for 'ba'"),
    ],
)
def test_both_have_to_write_the_problems_words(split, student, prompt, answer, stored, sentence):
    pair = (load_policy(RoleModel(model=model), Hardware()) for model in (f"micro/{student}", split))
    problems = [Problem("p", prompt, answer)]
    with pytest.raises(StudyError, match=sentence) if sentence else contextlib.nullcontext():
        check_words(*pair, problems, stored)


def test_a_rollout_is_spelled_anew_unless_a_word_of_it_can_not_be():
    student = load_policy(RoleModel(model="micro/chains-student"), Hardware())
    texts = [("v3 f1 v17", True), ("# v4", False), ("v99", True), ("# v4", True)]
    rollouts = [Rollout("p", i, (9, 9), text, finished) for i, (text, finished) in enumerate(texts)]
    found = by_text(rollouts, student)
    assert [r.sample for r in found] == [0, 1, 3]
    assert [student.tokenizer.decode(r.ids) for r in found] == ["v3 f1 v17 <eos>", "# v4", "# v4 <eos>"]
    with pytest.raises(StudyError, match=r"in 2 of 3 rollouts .* the first 'v99'"):
        by_text([rollouts[2], rollouts[0], dataclasses.replace(rollouts[2], text="v1 w")], student)


def test_the_likeliest_answer_of_each_problem_is_kept():
    said = [("b", 0, -2), ("b", 1, -1), ("a", 0, -3), ("b", 2, -1)]
    rollouts = [Rollout(problem, i, (1,), "", True, log_prob) for problem, i, log_prob in said]
    assert [(r.problem, r.sample) for r in likeliest(rollouts)] == [("b", 1), ("a", 0)]


def test_what_can_not_be_compared_by_text_is_refused_by_the_parameters():
    with pytest.raises(StudyError, match="states student, beta between 0 and 1"):
        resolve("micro-full", "student.grpo", 0, {"stages": {"opd": {"estimator": "gold"}}})
    halves = {"hardware": {"processes": 2}, "roles": SPLIT, "stages": {"opd": {"micro_batch": 128}}}
    with pytest.raises(StudyError, match="estimator gold is one process's"):
        refuse_what_is_not_shared(resolve("micro-full", "student.gold.split_teacher", 0, halves))

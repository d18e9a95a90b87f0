"""Prompts under the chat templates that Qwen3 and Llama 3 are published with (TRL keeps copies), to the letter."""

from pathlib import Path

import pytest
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import DistillationConfig, GRPOConfig, GRPOTrainer

from s2d_lib.losses import estimator
from s2d_lib.models.policy import CHAT_TEMPLATE_KWARGS, Policy
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.stages.self_teacher import Reprompts

TEXT = "What is 2 + 3?\n\nPut the answer in \\boxed{}."
QWEN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
LLAMA = (  # 3.1's day; 3.2's own would be today
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
WANTED = {"qwen3": QWEN, "llama3_2": LLAMA}
SPECIAL = {
    "qwen3": (None, "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<think>", "</think>"),
    "llama3_2": (
        "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    ),
}  # fmt: skip


@pytest.fixture(params=WANTED)
def family(request) -> str:
    return request.param


@pytest.fixture
def policy(family) -> Policy:
    """A tiny model that chats in bytes, so that every text comes back whole; like Llama's own tokenizer it puts BOS before what
    is not chat, which must not stand there twice."""
    bos, eos, pad, *rest = SPECIAL[family]
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([token for token in (bos, eos, pad, *rest) if token])
    if bos:
        core.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad, padding_side="left"
    )
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=32, intermediate_size=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Policy(Qwen3ForCausalLM(config), tokenizer, chat=True)


def test_a_prompt_is_one_users_turn_and_the_beginning_of_an_answer(policy, family):
    (ids,) = policy.prompt_ids([TEXT])
    wanted = WANTED[family].format(TEXT)
    assert policy.tokenizer.decode(ids) == wanted
    for mark in filter(None, SPECIAL[family]):  # a token each, not spelled out in letters
        assert ids.count(policy.tokenizer.convert_tokens_to_ids(mark)) == wanted.count(mark)


def test_a_self_teachers_prompt_is_the_same_turn_also_when_its_solution_is_cut(policy, family):
    template, ids = "{question}\n\nOne solution: {solution}", []
    for limit, solution in ((None, "2 + 3 = 5."), (-1, " + 3 = 5.")):
        made = Reprompts(policy, template, max_tokens=limit and len(ids) + limit, max_new_tokens=0)
        ids, cut = made.of("solution", TEXT, "2 + 3 = 5.")
        assert cut == (limit is not None)
        assert policy.tokenizer.decode(ids) == WANTED[family].format(f"{TEXT}\n\nOne solution: {solution}")


@pytest.mark.slow
def test_trl_sees_the_same_tokens(policy, tmp_path):
    texts = [TEXT, "And 4?"]
    rows = [{"prompt": policy.prompt(text)} for text in texts]
    common = {"model": policy.model, "processing_class": policy.tokenizer, "train_dataset": Dataset.from_list(rows)}
    arguments = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False}
    arguments |= {"per_device_train_batch_size": 2, "chat_template_kwargs": CHAT_TEMPLATE_KWARGS}
    dense = DistillationConfig(**arguments)
    trainers = (
        DenseTrainer(teacher_model=policy.model, args=dense, divergence=estimator("full", beta=1.0), **common),
        GRPOTrainer(reward_funcs=lambda **_: [0.0] * 2, args=GRPOConfig(**arguments, num_generations=2), **common),
    )
    for trainer in trainers:
        seen = trainer._tokenize_prompts([row["prompt"] for row in rows])[0]
        assert [list(ids) for ids in seen] == policy.prompt_ids(texts)

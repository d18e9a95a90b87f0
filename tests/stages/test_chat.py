"""Chat models: every stage and the sampler put the same tokens before a completion."""

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import DistillationConfig, GRPOConfig, GRPOTrainer

from s2d_lib.losses import estimator
from s2d_lib.models.policy import CHAT_TEMPLATE_KWARGS, load_policy
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.stages.self_teacher import Reprompts
from s2d_lib.study.settings import Hardware, RoleModel

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for m in messages %}<im_start> {{ m['role'] }} {{ m['content'] }} <im_end> {% endfor %}"
    "{% if add_generation_prompt %}<im_start> assistant {% if enable_thinking is defined and not enable_thinking %}"
    "<think> </think>{% endif %}{% endif %}"
)
WORDS = [
    "<pad>",
    "<im_end>",
    "<unk>",
    "<im_start>",
    "user",
    "assistant",
    "system",
    "<think>",
    "</think>",
    "a",
    "b",
    "c",
    "two",
    "?",
]


@pytest.fixture
def policy(tmp_path):
    """A tiny chat model whose template has a switch for thinking."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<im_end>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    config = Qwen3Config(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=32, intermediate_size=16, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return load_policy(RoleModel(model=str(tmp_path / "m"), chat=True), Hardware())


def test_the_prompt_is_the_template_with_thinking_off(policy):
    (ids,) = policy.prompt_ids(["a b ?"])
    assert policy.tokenizer.decode(ids) == "<im_start> user a b ? <im_end> <im_start> assistant <think> </think>"


def test_a_self_teacher_is_asked_in_the_same_form(policy):
    ids, _ = Reprompts(policy, "a {solution} {question}").of_solution("b ?", "c c")
    expected = "<im_start> user a c c b ? <im_end> <im_start> assistant <think> </think>"
    assert policy.tokenizer.decode(ids) == expected
    # Cut to fit, the template's words stay, too
    ids, cut = Reprompts(policy, "a {solution} {question}", max_tokens=len(ids) - 1).of_solution("b ?", "c c")
    assert cut
    assert policy.tokenizer.decode(ids) == expected.replace("c c", "c")


def common(tmp_path):
    """Arguments of both trainers."""
    return {
        "output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2, "max_completion_length": 4,
        "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no",
        "chat_template_kwargs": CHAT_TEMPLATE_KWARGS,
    }  # fmt: skip


def test_trl_sees_the_same_prompt_tokens_as_the_sampler(policy, tmp_path):
    texts = ["a b ?", "two c ?"]
    rows = Dataset.from_list([{"prompt": policy.prompt(t), "answer": "a", "id": t} for t in texts])
    dense = DenseTrainer(
        model=policy.model, teacher_model=policy.model, args=DistillationConfig(**common(tmp_path)), train_dataset=rows,
        processing_class=policy.tokenizer, divergence=estimator("full", beta=1.0),
    )  # fmt: skip
    sparse = GRPOTrainer(
        model=policy.model, reward_funcs=lambda completions, **k: [0.0] * len(completions), train_dataset=rows,
        args=GRPOConfig(**common(tmp_path), num_generations=2), processing_class=policy.tokenizer,
    )  # fmt: skip
    for trainer in (dense, sparse):
        seen = trainer._tokenize_prompts([policy.prompt(t) for t in texts])[0]
        assert [list(ids) for ids in seen] == policy.prompt_ids(texts), type(trainer)

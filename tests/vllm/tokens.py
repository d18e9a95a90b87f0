"""The most likely tokens after prompts, by transformers and by an engine of vLLM."""

from s2d_lib.engines.answers import Request
from s2d_lib.study.vllm import CHECK_TOKENS


def greedy(policy, problems, tokens: int = CHECK_TOKENS) -> list[list[int]]:
    """transformers' own greedy tokens, by `generate`."""
    found = []
    for ids in policy.prompt_ids([p.prompt for p in problems]):
        inputs = policy.tokenizer.pad({"input_ids": [ids]}, return_tensors="pt").to(policy.model.device)
        eos, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
        out = policy.model.generate(
            **inputs, do_sample=False, max_new_tokens=tokens, eos_token_id=eos, pad_token_id=pad
        )
        found.append(out[0, len(ids) :].tolist())
    return found


def by_vllm(engine, policy, problems, tokens: int = CHECK_TOKENS) -> list[list[int]]:
    """An engine's."""
    prompts = policy.prompt_ids([p.prompt for p in problems])
    return [one[0].ids for one in engine.answer(prompts, Request(samples=1, max_new_tokens=tokens))]

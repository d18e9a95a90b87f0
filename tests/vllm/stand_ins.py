"""Stand-ins for vLLM, over a transformers model: an engine, its `LLM`, and TRL's engine in a training."""

import copy
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM

from s2d_lib.study.settings import CHECK_TOKENS
from s2d_lib.vllm import GREEDY, Answer


@torch.no_grad()
def answered(model, prompt: list[int], eos: int, tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
    """A model's own answer, token by token: greedy, or drawn at a temperature."""
    ids, log_probs, stream = [], [], torch.Generator().manual_seed(seed)
    while len(ids) < tokens and (not ids or ids[-1] != eos):
        logits = model(input_ids=torch.tensor([[*prompt, *ids]], device=model.device)).logits[0, -1]
        at = logits.cpu().float().log_softmax(-1)
        drawn = (at / temperature).softmax(-1).multinomial(1, generator=stream) if temperature else at.argmax()
        ids.append(int(drawn))
        log_probs.append({one: float(at[one]) for one in (ids[-1], *at.topk(5).indices.tolist())})
    return Answer(ids, log_probs)


def greedy(policy, problems, tokens: int = CHECK_TOKENS) -> list[list[int]]:
    """transformers' own greedy tokens."""
    eos = policy.tokenizer.eos_token_id
    return [answered(policy.model, prompt, eos, tokens).ids for prompt in policy.prompt_ids(problems)]


class LLM:
    """vLLM's, as far as s2d_lib.vllm uses it: it loads a folder and says what it was asked."""

    made: list = []  # noqa: RUF012

    def __init__(self, model: str, **options):
        self.model, self.options = AutoModelForCausalLM.from_pretrained(model).eval(), options
        self.asked, self.ended = [], False
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: setattr(self, "ended", True)))
        torch.set_num_threads = lambda count: None  # as vLLM on a CPU
        LLM.made.append(self)

    def generate(self, prompts, params, use_tqdm):
        self.asked += params
        asked = zip(prompts, params, strict=True)
        return [SimpleNamespace(outputs=self._outputs(one["prompt_token_ids"], how)) for one, how in asked]

    def _outputs(self, prompt, params):
        assert len(prompt) + params.max_tokens <= self.options["max_model_len"]
        found, (eos,) = [], params.stop_token_ids
        for i in range(params.n):
            seed = (params.seed or 0) * 100 + i
            ids, at = answered(self.model, prompt, eos, params.max_tokens, params.temperature, seed)
            said = [{token: SimpleNamespace(logprob=value) for token, value in one.items()} for one in at]
            found.append(SimpleNamespace(index=i, token_ids=ids, logprobs=None if params.logprobs is None else said))
        return found[::-1]


class Generation:
    """What SyncCheck knows of TRL's VLLMGeneration: updates copy the trainer's weights, unless told otherwise."""

    def __init__(self, policy):
        self.source, self.eos, self.works, self.syncs = policy.model, policy.tokenizer.eos_token_id, True, 0
        self.held = copy.deepcopy(policy.model).eval()
        self.temperature, self.top_p, self.top_k, self.max_completion_length, self.logprobs = 0.7, 0.9, 5, 99, None
        self.asked, self.ended = [], False
        core = SimpleNamespace(shutdown=lambda: setattr(self, "ended", True))
        config = SimpleNamespace(dtype=torch.float32)
        self.llm = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core, model_config=config))

    def sync_weights(self):
        self.syncs += 1
        if self.works:
            self.held.load_state_dict(self.source.state_dict())

    def generate(self, prompts, images, num_generations, profiler=None):
        self.asked.append({name: getattr(self, name) for name in GREEDY})
        answers = [answered(self.held, p, self.eos, self.max_completion_length) for p in prompts]
        values = [[list(at.values()) for at in a.log_probs] for a in answers]
        return prompts, [a.ids for a in answers], values, [[list(at) for at in a.log_probs] for a in answers]

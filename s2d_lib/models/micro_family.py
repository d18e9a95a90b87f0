"""The micro families: transformers small enough to pretrain and post-train on a laptop, made once by notebook 10."""

import copy
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.optim.lr_scheduler import LinearLR, OneCycleLR
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, configure_torch, save_policy
from s2d_lib.problems.micro import refuse_what_teaches_nothing, world_of
from s2d_lib.problems.world import Document, World, corpus
from s2d_lib.provenance import environment, file_hash
from s2d_lib.runs import publish, write_json
from s2d_lib.study import load_profile
from s2d_lib.study.pretraining import Corpus, MicroModel, Resettled
from s2d_lib.study.resolve import RELEASED, released_record

HEAD_SIZE = 32  # the smallest that vLLM serves; it need not divide the width
CONTEXT = 64  # tokens: the longest reprompt and its answer; of split words twice as many
SETTLING_STEPS, SETTLING_BATCH, SETTLING_RATE = 300, 128, 2.0e-3


def make_base(
    profile: str,
    name: str,
    folder: Path = RELEASED,
    overrides: dict | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> dict:
    """Pretrain one base model of a profile with a `pretraining` block and put it into `folder/name`, with the record that is
    returned: parameters, loss curve, weights hash. What no model could learn from is a StudyError."""
    settings = load_profile(profile, overrides)
    refuse_what_teaches_nothing(settings.problems, settings.pretraining)
    configure_torch(settings.hardware)
    asked, spec = settings.pretraining.models[name], settings.pretraining.pretrained(name)
    text = settings.pretraining.corpus.model_copy(update={"mix": settings.pretraining.mix(name)})
    world = world_of(settings.problems)
    tokenizer = build_tokenizer(world, spec.split)
    if isinstance(asked, Resettled):
        other = released_record(folder / asked.of)
        curve, before = other["loss"], other["opening"]
        model = AutoModelForCausalLM.from_pretrained(folder / asked.of)
    else:
        before, model = None, build_model(tokenizer, spec)
        with tempfile.TemporaryDirectory() as scratch:
            curve = pretrain(model, tokenizer, world, text, spec, scratch, callbacks)
    opening = settle(model, tokenizer, world, text, spec, asked.opening, before) if asked.opening else None
    beside = folder / f".{name}.unfinished"
    shutil.rmtree(beside, ignore_errors=True)  # of an attempt that was killed
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(Policy(model, tokenizer, chat=False), beside)
    record = {
        "model": asked.model_dump(),
        "corpus": text.model_dump(),
        "world": settings.problems.world.model_dump(),
        "parameters": model.num_parameters(),
        "weights_sha256": file_hash(beside / "model.safetensors"),
        "loss": curve,
        "opening": opening,
        "environment": environment(),
    }
    write_json(beside / "record.json", record)
    publish(beside, folder / name)
    return record


def build_tokenizer(world: World, split: bool = False) -> PreTrainedTokenizerFast:
    """Tokenizer over the world's words, a word a token; EOS and pad are distinct. With `split` a character is one, so that `v17`
    is `v`, `##1`, `##7` (## goes on with a word): the same texts in another vocabulary."""
    special, pieces = world.special, world.words
    if split:
        content = [word for word in world.words if word not in special]
        pieces = dict.fromkeys([*special, *(w[0] for w in content), *(f"##{c}" for w in content for c in w[1:])])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = models.WordPiece if split else models.WordLevel
    core = Tokenizer(model(vocabulary, unk_token=special.unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if split:
        core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=special.end,
        pad_token=special.pad,
        unk_token=special.unknown,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2 * CONTEXT if split else CONTEXT,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, spec: MicroModel) -> PreTrainedModel:
    """A freshly initialised model with tied embeddings, fp32."""
    torch.manual_seed(spec.seed)
    config = AutoConfig.for_model(
        spec.architecture,
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        head_dim=HEAD_SIZE,
        intermediate_size=spec.mlp,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=spec.init,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return AutoModelForCausalLM.from_config(config)


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    text: Corpus,
    spec: MicroModel,
    output_dir: str,
    callbacks: list[TrainerCallback] | None = None,
) -> list[dict]:
    """Next-token training on the mixed-quality corpus, every document seen once; AdamW with a one-cycle rate. Only the solutions
    carry loss: the prompts are random. Returns the loss curve, a dict with `step` and `loss` (nats per token) every 50 steps;
    a document longer than the context is a StudyError."""
    count, mix = spec.steps * spec.batch, text.mix.model_dump()
    documents = corpus(world, count, mix, text.slip, text.lengths, spec.seed, spec.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=0.01)
    # One step more than is taken: at its very end a one-cycle schedule can't be stepped again.
    rate = OneCycleLR(optimizer, max_lr=spec.learning_rate, total_steps=spec.steps + 1)
    arguments = TrainingArguments(
        output_dir=output_dir,
        max_steps=spec.steps,
        per_device_train_batch_size=spec.batch,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,  # the collator reads the length
        use_cpu=True,
        disable_tqdm=True,
        seed=spec.seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[_padded(document, tokenizer) for document in documents],
        data_collator=_shortest_batch,
        optimizers=(optimizer, rate),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [{"step": row["step"], "loss": row["loss"]} for row in trainer.state.log_history if "loss" in row]


def settle(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    text: Corpus,
    spec: MicroModel,
    opening: float,
    before: float | None = None,
) -> float:
    """Give a model, pretrained by `spec` on `text`, in place an opening, and leave all else it knows as it was.

    It is trained towards itself on right documents of the corpus, by the KL of its next-token distributions; only the log-odds
    of the first word, any but `#` against `#`, are moved, by the same amount for all prompts but those that carry a given
    solution. So it guesses on nearly every prompt and still knows what it knew, which no share of documents below one in as many
    as it reads could do. `before` is the opening that it has, by default what the corpus taught it.

    Returns the opening on documents that it has not seen, the sigmoid of the mean log-odds; one that misses what was asked for
    by more than a factor of two is a StudyError.
    """
    start = copy.deepcopy(model).requires_grad_(False)
    before = before or text.mix.worked
    shift, size = _log_odds(opening) - _log_odds(before), SETTLING_BATCH
    mark = tokenizer.convert_tokens_to_ids("#")
    mix = {"right": 1.0} | ({"reprompted": 1.0} if text.mix.reprompted else {})
    documents = corpus(world, (SETTLING_STEPS + 1) * size, mix, 0.0, text.lengths, spec.seed + 1, spec.hidden)
    rows = [_padded(d, tokenizer) | {"plain": f" {world.marker} " not in d.prompt} for d in documents]
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTLING_RATE, weight_decay=0.0)
    rate = LinearLR(optimizer, 1.0, 0.0, SETTLING_STEPS)

    def errors(some: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """KL of everything but the opening (nats, one a predicted word), and log-odds over what is asked, one a prompt."""
        batch, plain = _shortest_batch(some), torch.tensor([row["plain"] for row in some])
        own, own_odds = _without(mark, model(batch["input_ids"]).logits, batch["labels"])
        with torch.no_grad():
            wanted, odds = _without(mark, start(batch["input_ids"]).logits, batch["labels"])
        return (wanted.exp() * (wanted - own)).sum(-1), own_odds - odds - shift * plain

    for step in range(SETTLING_STEPS):
        kl, missed = errors(rows[step * size : (step + 1) * size])
        optimizer.zero_grad()
        (kl.mean() + missed.square().mean() / 10).backward()
        optimizer.step()
        rate.step()
    with torch.no_grad():
        missed = errors([row for row in rows[-size:] if row["plain"]])[1].mean().item()
    if abs(missed) > math.log(2):
        raise StudyError(
            f"the opening {opening:g} was missed by a factor of {math.exp(abs(missed)):.1f}: ask for one that is nearer to "
            f"{before:.2g}, which the model had."
        )
    return 1 / (1 + math.exp(-_log_odds(opening) - missed))


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def _without(mark: int, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the solution's words, at its first word among all words but `mark`, shape (words, vocabulary),
    and log-odds of all these against `mark` there, shape (prompts,)."""
    asked = labels[:, 1:] != -100
    first = asked & (asked.cumsum(1) == 1)
    opening = logits[:, :-1][first].log_softmax(-1)
    others = opening.index_fill(-1, torch.tensor(mark), -torch.inf).logsumexp(-1)
    marked = first[..., None] & (torch.arange(logits.shape[-1]) == mark)
    logits = logits[:, :-1].masked_fill(marked, torch.finfo(logits.dtype).min / 2)
    return logits[asked].log_softmax(-1), others - opening[:, mark]


def _padded(document: Document, tokenizer: PreTrainedTokenizerFast) -> dict:
    prompt, solution = tokenizer(list(document))["input_ids"]
    length, context = len(prompt) + len(solution), tokenizer.model_max_length
    if length > context:
        asks = " ".join(document.prompt.split()[:8])
        raise StudyError(
            f"a document of {length} tokens is longer than the micro models' context of {context}: lower the corpus's "
            f"`lengths` (it asks {asks} ...)."
        )
    # Right padding under a causal mask is never attended to by a real token, so no attention mask is needed.
    tokens, labels = np.full(context, tokenizer.pad_token_id), np.full(context, -100)
    tokens[:length] = prompt + solution
    labels[len(prompt) : length] = solution
    return {"input_ids": tokens, "labels": labels, "length": length}


def _shortest_batch(rows: list[dict]) -> dict:
    longest = max(row["length"] for row in rows)
    return {k: torch.from_numpy(np.stack([row[k] for row in rows])[:, :longest]) for k in ("input_ids", "labels")}

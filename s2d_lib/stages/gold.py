"""GOLD: on-policy distillation from a teacher of another vocabulary, by TRL's experimental loss (read from release 1.16).

Both models read the text of the student's rollouts, each in its own tokens. Wherever both end a token at the same place of
the text, EOS included, a span ends, for instance the student's `v17` and the teacher's `v`, `##1`, `##7`. Of every span the
loss compares two vectors: a model's distribution at the span's last token, times the probabilities that it gave to the span's
tokens before (`bayesian` in TRL: its other way leaves an answer's first token out). Entries of tokens that both vocabularies
spell alike are compared by a generalised JSD, the others sorted by size, as nothing says which belong together, by their L1
distance; their weights are the shares of such tokens in the teacher's vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from trl.experimental.gold import GOLDConfig
from trl.experimental.gold.gold_trainer import ULDLoss
from trl.experimental.utils import encode_with_byte_offsets, is_byte_level_tokenizer

from s2d_lib.models.policy import Policy
from s2d_lib.stages.dense import DenseTrainer
from s2d_lib.stages.states import by_length, padded


class Read(NamedTuple):
    """Prompts and texts in one tokenizer's tokens. All but the first two are of the last T positions, those of the texts and
    the one before."""

    prompt_and_text: Tensor  # (B, L)
    attention: Tensor  # (B, L)
    ids: Tensor  # (B, T)
    labels: Tensor  # (B, T), -100 where no text's token is
    offsets: Tensor  # (B, T, 2), bytes of the text from its beginning


def span_loss(student: Policy, teacher: Policy, temperature: float, **options) -> ULDLoss:
    """TRL's loss with `options` of its GOLDConfig; made before a trainer's own config, whose accelerator another would reset."""
    config = GOLDConfig(
        use_uld_loss=True,
        uld_use_hybrid_loss=True,
        uld_token_merge_strategy="bayesian",
        uld_skip_student_eos=False,  # when to end is a part of what is learned
        uld_skip_teacher_eos=False,
        uld_student_temperature=temperature,
        uld_teacher_temperature=temperature,
        **options,
    )
    return ULDLoss(config, student.tokenizer, teacher.tokenizer, student.model.device)


class GoldTrainer(DenseTrainer):
    """The dense trainer with TRL's loss over spans, on rows that have a `problem` column: their place among the prompts."""

    def __init__(self, *args, teacher: Policy, prompts: list[list[int]], span_loss: ULDLoss, **kwargs):
        """`prompts` are the problems', in the teacher's tokens."""
        super().__init__(*args, divergence=None, **kwargs)
        self.teacher, self.prompts, self.span_loss = teacher, prompts, span_loss

    def loss_of(self, student, inputs):
        """TRL's means, over a row's spans and then over rows: those of the optimiser step, whose parts add up. No token of one
        vocabulary agrees with one of the other."""
        rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        parts = [self.part_loss(student, part) for part in by_length(inputs)]
        losses, entropies, tokens = (torch.stack(values) for values in zip(*parts, strict=True))
        return losses.sum() / rows, entropies.sum(), torch.zeros_like(entropies[0]), tokens.sum().float()

    def part_loss(self, student, inputs):
        """Loss summed over the rows, the student's entropy (nats) summed over its tokens, and their number."""
        tokenizer, teacher = self.processing_class, self.teacher
        said, asked = (
            [row[kept] for row, kept in zip(inputs[f"{part}_ids"], inputs[f"{part}_mask"].bool(), strict=True)]
            for part in ("completion", "prompt")
        )
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        ended = [bool((row == tokenizer.eos_token_id).any()) for row in said]
        theirs_asked = [self.prompts[i] for i in inputs["problem"]]
        own = read(tokenizer, [row.tolist() for row in asked], texts, ended, self.accelerator.device)
        theirs = read(teacher.tokenizer, theirs_asked, texts, ended, teacher.model.device)
        with self.accelerator.autocast():
            logits = _logits(student, own)
            with torch.no_grad():
                wanted = _logits(teacher.model.eval(), theirs).to(logits.device)
        loss = self.span_loss(
            logits, wanted, own.labels, theirs.labels, own.ids, theirs.ids, own.offsets, theirs.offsets
        )
        with torch.no_grad():
            log_probs = logits[:, :-1].log_softmax(-1)[own.labels[:, 1:] != -100]
            entropy = -(log_probs.exp() * log_probs).sum()
        return loss.squeeze() * len(texts), entropy, torch.tensor(len(log_probs), device=logits.device)


def _logits(model, text: Read) -> Tensor:
    said = model(text.prompt_and_text, attention_mask=text.attention, use_cache=False, logits_to_keep=text.ids.shape[1])
    return said.logits.float()


def read(tokenizer, prompts: list[list[int]], texts: list[str], ended: list[bool], device) -> Read:
    """Prompts given as tokens, and texts, with EOS behind those that ended by themselves; padded as TRL's trainer pads."""
    said, spans = [], []
    for (ids, offsets), text, end in zip(_with_offsets(tokenizer, texts), texts, ended, strict=True):
        close = len(text.encode())
        said.append([*ids, tokenizer.eos_token_id] if end else ids)
        spans.append([*offsets, (close, close)] if end else offsets)
    before, asked = padded(prompts, tokenizer.pad_token_id, "left", device)
    after, there = padded(said, tokenizer.pad_token_id, "right", device)
    ids, kept = torch.cat([before, after], dim=1), after.shape[1] + 1
    labels = torch.cat([torch.full_like(before, -100), after.masked_fill(there == 0, -100)], dim=1)
    offsets = torch.zeros(len(texts), kept, 2, dtype=torch.long)
    for row, some in zip(offsets, spans, strict=True):
        row[1 : len(some) + 1] = torch.tensor(some, dtype=torch.long).reshape(-1, 2)
    attention = torch.cat([asked, there], dim=1)
    return Read(ids, attention, ids[:, -kept:], labels[:, -kept:], offsets.to(device))


def _with_offsets(tokenizer, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids of each text and which of its bytes each stands for."""
    if is_byte_level_tokenizer(tokenizer.backend_tokenizer):
        return encode_with_byte_offsets(tokenizer.backend_tokenizer, texts)
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    rows = zip(found["input_ids"], found["offset_mapping"], texts, strict=True)
    return [(ids, [tuple(len(text[:at].encode()) for at in span) for span in spans]) for ids, spans, text in rows]

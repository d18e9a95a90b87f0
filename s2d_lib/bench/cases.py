"""The work that the losses are timed on: shapes of the micro family, of SmolLM2 and of Qwen3."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One loss of one batch, forward and backward.

    Attributes:
        name: Of the shape, then what differs from its first case.
        vocab: Rows of both heads.
        student_width: Width of the student's hidden states.
        teacher_width: Width of the teacher's.
        tokens: How many, masked ones included.
        dtype: Of hidden states and heads.
        beta: 0 forward KL, 1 reverse KL, between them the generalised JSD.
        head_gradient: Whether the student's head is trained (with LoRA it is not).
        masked: Share of the tokens that the mask drops.
    """

    name: str
    vocab: int
    student_width: int
    teacher_width: int
    tokens: int
    dtype: torch.dtype = torch.float32
    beta: float = 1.0
    head_gradient: bool = True
    masked: float = 0.0

    @property
    def kept(self) -> int:
        """Tokens that the mask keeps."""
        return self.tokens - round(self.tokens * self.masked)

    def flops(self, recompute: bool = False) -> float:
        """Floating-point operations of the head-sized matrix products over the kept tokens.

        The least that an exact loss can do: both models' logits, and the gradients of the student's hidden states and,
        where it is trained, its head. With `recompute` what it takes to make both logits again in the backward pass.
        """
        student = 2 + self.head_gradient + recompute
        return 2.0 * self.kept * self.vocab * (student * self.student_width + (1 + recompute) * self.teacher_width)


@dataclass
class Batch:
    """Tensors of a case; both models' logits have a standard deviation of about 2."""

    student_hidden: Tensor  # (N, Hs)
    student_weight: Tensor  # (V, Hs)
    teacher_hidden: Tensor  # (N, Ht)
    teacher_weight: Tensor  # (V, Ht)
    mask: Tensor | None  # (N,), bool


def make_batch(case: Case, device: str = "cpu", seed: int = 0) -> Batch:
    """Seeded random tensors of a case's shapes."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        # Heads hold up to 600 million numbers: a block of them, repeated, costs the same to multiply
        block = torch.randn(min(rows, 4096), columns, generator=generator, device=device).mul_(scale)
        out = torch.empty(rows, columns, dtype=case.dtype, device=device)
        for part in out.split(len(block)):
            part.copy_(block[: len(part)])
        return out

    mask = None
    if case.masked:
        mask = torch.ones(case.tokens, dtype=torch.bool, device=device)
        mask[torch.randperm(case.tokens, generator=generator, device=device)[: round(case.tokens * case.masked)]] = (
            False
        )
    return Batch(
        normal(case.tokens, case.student_width, 1.0).requires_grad_(),
        normal(case.vocab, case.student_width, 2 * case.student_width**-0.5).requires_grad_(case.head_gradient),
        normal(case.tokens, case.teacher_width, 1.0),
        normal(case.vocab, case.teacher_width, 2 * case.teacher_width**-0.5),
        mask,
    )


SMALL = Case("small", 64, 64, 128, 8192)  # the micro family's scale
MEDIUM = Case("medium", 49152, 576, 960, 512)  # SmolLM2 135M and 360M
LARGE = Case("large", 151936, 2048, 4096, 64)  # Qwen3 1.7B and 8B; a call of TRL takes 6 s

MEDIUM_BF16 = replace(MEDIUM, name="medium bf16", dtype=torch.bfloat16)
LARGE_BF16 = replace(LARGE, name="large bf16", dtype=torch.bfloat16)
_FEW = replace(MEDIUM, tokens=128)  # what differs from the medium case is timed on a quarter of its tokens

CPU_CASES = [
    SMALL,
    MEDIUM,
    MEDIUM_BF16,
    replace(_FEW, name="forward KL", beta=0.0),
    replace(_FEW, name="JSD", beta=0.5),
    replace(_FEW, name="frozen head", head_gradient=False),
    replace(_FEW, name="no mask"),
    replace(_FEW, name="half masked", masked=0.5),
    replace(_FEW, name="90% masked", masked=0.9),
    LARGE,
    LARGE_BF16,
]

GPU_CASES = [
    Case(f"{name} N={tokens}", vocab, student, teacher, tokens, torch.bfloat16)
    for name, vocab, student, teacher in (
        ("Qwen3 1.7B/8B", 151936, 2048, 4096),
        ("Qwen3 0.6B/8B", 151936, 1024, 4096),
        ("SmolLM2 135M/360M", 49152, 576, 960),
    )
    for tokens in (1024, 4096, 16384)
]

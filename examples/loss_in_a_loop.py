"""The exact divergence in a bare training loop: no trainer, no profile, any two models of one vocabulary.

    python examples/loss_in_a_loop.py STUDENT TEACHER TEXTS [STEPS]

STUDENT and TEACHER are folders or Hub ids, TEXTS a file with one text a line; every token of a text is learned from. Logits are
never made as a whole, so that memory does not grow with the vocabulary.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2d_lib.losses import Head, Pair, linear_divergence

student_name, teacher_name, texts, *steps = sys.argv[1:]
student, teacher = (AutoModelForCausalLM.from_pretrained(name) for name in (student_name, teacher_name))
tokenizer = AutoTokenizer.from_pretrained(student_name)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
batch = tokenizer(Path(texts).read_text().splitlines(), return_tensors="pt", padding=True)
mask = batch["attention_mask"].bool()

for step in range(int(*steps or [20])):
    hidden = student.base_model(**batch).last_hidden_state  # (B, T, H)
    with torch.no_grad():
        theirs = teacher.base_model(**batch).last_hidden_state
    heads = (Head(model.get_output_embeddings().weight) for model in (student, teacher))
    pair = Pair(hidden, next(heads), theirs, next(heads), mask=mask)
    loss = linear_divergence(pair, beta=0.0).loss  # KL(teacher || student); beta 1 is reverse KL, between them the JSD
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: {loss.item():.4f} nats per token")

"""The examples run as they stand, on the released micro models."""

import json
import re
import runpy
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from s2d_lib.problems.sources import load_problems
from s2d_lib.study import resolve

pytestmark = pytest.mark.slow


@pytest.fixture
def example(root, tmp_path, monkeypatch):
    """Runs an example with arguments; `{student}`, `{teacher}`, `{folder}` in them are filled in, as are the given files."""

    def run(name: str, *arguments: str):
        places = {one: root / "s2d_lib/models/micro" / f"chains-{one}" for one in ("student", "teacher")}
        filled = [argument.format(**places, folder=tmp_path) for argument in arguments]
        monkeypatch.setattr(sys, "argv", [name, *filled])
        return runpy.run_path(str(root / "examples" / name), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def pool():
    return load_problems(resolve("micro", "student.grpo", 0).problems).pool[:16]


def test_the_loss_in_a_loop_takes_the_student_to_its_teacher(example, tmp_path, pool, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(f"{p.prompt} {p.answer}" for p in pool))
    example("loss_in_a_loop.py", "{student}", "{teacher}", "{folder}/texts.txt", "6")
    losses = [float(nats) for nats in re.findall(r"step \d+: (\S+) nats", capsys.readouterr().out)]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]


def test_opd_without_a_profile_saves_a_trained_student(example, root, tmp_path, pool):
    (tmp_path / "prompts.txt").write_text("\n".join(p.prompt for p in pool))
    trainer = example("opd.py", "{student}", "{teacher}", "{folder}/prompts.txt", "{folder}/out", "3")["trainer"]
    assert trainer.state.global_step == 3
    places = (tmp_path / "out", root / "s2d_lib/models/micro/chains-student")
    trained, begun = (AutoModelForCausalLM.from_pretrained(place).lm_head.weight for place in places)
    assert not torch.equal(trained, begun)


def test_trls_trainer_takes_the_grader_as_its_reward(example, tmp_path, pool):
    rows = [json.dumps({"prompt": p.prompt, "answer": p.answer}) for p in pool]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows))
    arguments = ("{student}", "{folder}/problems.jsonl", "{folder}/out", "exact", "2")
    trainer = example("grpo_with_our_grader.py", *arguments)["trainer"]
    steps = [row for row in trainer.state.log_history if "rewards/correctness/mean" in row]
    assert [0 <= row["rewards/correctness/mean"] <= 1 and "formed" in row for row in steps] == [True] * 2


def test_the_page_of_public_functions_has_their_signatures(root):
    page = runpy.run_path(str(root / "site" / "functions.py"))["page"]()
    assert page == (root / "docs" / "functions.md").read_text(), "write it anew: `python site/functions.py`"

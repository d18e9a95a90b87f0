"""Exporting: whole folders of finished runs, and one sentence for everything else."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2d_lib.cli import main
from s2d_lib.models.adapters import lora_config, save_adapter
from s2d_lib.models.policy import load_policy, save_policy
from s2d_lib.provenance import environment
from s2d_lib.runs import open_run
from s2d_lib.study.settings import Hardware, Lora, RoleModel

EVALUATION = "set,problem,level,correct,tokens,cut_off\n" + "".join(
    f"micro-math,p{i},3,0110,9.0,0.0\n" for i in range(4)
)


def export(to, checkpoint: str = "student.grpo") -> int:
    """The exit code of the command."""
    return main(["export", "--profile", "micro-full", "--checkpoint", checkpoint, "--to", str(to)])


@pytest.fixture
def student():
    return load_policy(RoleModel(model="micro/chains-student"), Hardware())


@pytest.fixture
def trained(runs, student):
    """Finish the runs of student.grpo without training them; returns the trained one."""

    def make(save=save_policy):
        base = open_run("micro-full", "student", 0)
        base.path("evaluation.csv").write_text(EVALUATION)
        base.finish()
        run = open_run("micro-full", "student.grpo", 0)
        run.path("evaluation.csv").write_text(EVALUATION)
        save(student, run.path("model"))
        measured = [{"set": "micro-math", "problems": 4, "samples": 4, "avg": 0.5, "se": 0.0}]
        run.remember(optimizer_steps=3, label_use={"problems": {"a": 8, "b": 8}, "gradings": 16}, evaluation=measured)
        run.finish()
        return run

    return make


def test_an_export_is_a_checkpoint_with_its_card(trained, student, tmp_path):
    trained()
    to = tmp_path / "new" / "exported"
    assert export(to) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(to), AutoTokenizer.from_pretrained(to)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), student.model.parameters(), strict=True))
    assert tokenizer.get_vocab() == student.tokenizer.get_vocab()
    card = (to / "README.md").read_text()
    assert card.startswith("---\n")
    assert all(word in card for word in ("| micro-math |", environment()["packages"]["trl"]))
    assert str(tmp_path) not in "".join(p.read_text() for p in to.glob("*.json")) + card
    assert [p.name for p in to.parent.iterdir()] == ["exported"]


def test_adapters_are_exported_merged(trained, student, tmp_path):
    def save(policy, folder):
        model = get_peft_model(policy.model, lora_config(policy.model, Lora(rank=2, alpha=4)))
        for weights in model.parameters():
            if weights.requires_grad:
                weights.data.fill_(0.1)
        save_adapter(model, policy.tokenizer, folder)

    trained(save)
    assert export(tmp_path / "e") == 0
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "e")
    before = load_policy(RoleModel(model="micro/chains-student"), Hardware()).model
    moved = exported.model.layers[0].mlp.up_proj.weight - before.model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(moved, torch.full_like(moved, 4 / 2 * 2 * 0.01))  # alpha / rank * B A
    assert not (tmp_path / "e" / "adapter_config.json").exists()


def test_what_can_not_be_exported_is_said_and_nothing_is_written(trained, tmp_path, capsys):
    to = tmp_path / "exported"

    def refused(sentence: str, checkpoint: str = "student.grpo") -> None:
        assert export(to, checkpoint) == 1
        assert sentence in capsys.readouterr().err
        assert not list(tmp_path.glob("*exported*"))

    refused("trains no model of its own", "student")
    refused("does not exist yet: `s2d run --profile micro-full --seed 0 --checkpoint student.grpo` makes it")
    open_run("micro-full", "student.grpo", 0)
    refused("is not finished")
    run = trained()
    run.path("evaluation.csv").write_text(EVALUATION + " ")
    refused("was changed after the run finished")
    run.path("evaluation.csv").write_text(EVALUATION)
    run.parent("from").path("evaluation.csv").unlink()
    refused("lacks its file evaluation.csv")
    to.mkdir()
    assert export(to) == 1
    assert "is there already" in capsys.readouterr().err

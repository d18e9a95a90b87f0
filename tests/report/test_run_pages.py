"""One page a checkpoint: small, linked, and true to the records."""

import dataclasses
import re

import pandas as pd

from s2d_lib.report.run_pages import link, run_page, write_run_pages

LIMIT = 1_500_000  # bytes of all pages of the study


def test_every_checkpoint_has_a_page_and_every_link_between_pages_leads_somewhere(full, tmp_path):
    pages = write_run_pages(full.bundle, full.name, tmp_path)
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


def test_the_same_results_are_the_same_pages_and_old_ones_go(full, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gone.md").write_text("old")
    first = {page: page.read_bytes() for page in write_run_pages(full.bundle, full.name, tmp_path)}
    assert not (tmp_path / "runs" / "gone.md").exists()
    assert {page: page.read_bytes() for page in write_run_pages(full.bundle, full.name, tmp_path)} == first


def test_a_link_may_lead_to_another_profile():
    assert link("label", "a.b") == "[label](runs/a.b.md)"
    assert link("label", "a.b", "../other/") == "[label](../other/runs/a.b.md)"


def test_samples_stand_on_the_page_in_one_line_each(full, tmp_path):
    samples = pd.DataFrame(
        {
            "seed": 0,
            "checkpoint": "student.grpo",
            "set": "micro-math",
            "problem": ["a", "b"],
            "prompt": ["v3 f1 ?", "p " * 200],
            "answer": ["v9", "`|"],
            "completion": ["v3\nf1\n# v9", ""],
            "correct": [True, False],
        }
    )
    bundle = dataclasses.replace(full.bundle, samples=samples)
    write_run_pages(bundle, full.name, tmp_path)
    text = (tmp_path / run_page("student.grpo")).read_text()
    assert "Samples of seed 0" in text
    assert re.search(r"\| `v3 f1 \?` +\| `v3 ⏎ f1 ⏎ # v9` +\| `v9` +\| yes +\|", text)
    assert re.search(r"p  …` +\| +\| `'¦` +\| no +\|", text)
    assert "Samples" not in (tmp_path / run_page("student")).read_text()

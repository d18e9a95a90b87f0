"""The problems of the profile smollm2, and what its chat template makes of one."""

from collections import Counter

import jinja2
import pytest

from s2d_lib.problems.sources import load_problems
from s2d_lib.study import load_profile, resolve

TASKS = ("letter_counting", "lcm", "products")


@pytest.mark.parametrize(("profile", "labels"), [("smollm2", 42), ("smollm2-gpu", 42)])
def test_every_set_has_as_many_problems_of_every_task_and_none_of_another_set(profile, labels):
    pytest.importorskip("reasoning_gym")
    problems = load_problems(resolve(profile, "student.grpo", 0).problems)
    sets = [problems.pool, problems.validation, problems.evaluations["short-tasks"]]
    assert [Counter(p.level for p in some) for some in sets] == [
        Counter(dict.fromkeys(TASKS, count)) for count in (labels, 10, 32)
    ]
    assert len({p.prompt for some in sets for p in some}) == sum(map(len, sets))


def test_an_answer_begins_behind_the_templates_last_word():
    template = jinja2.Template(load_profile("smollm2").roles["student"].chat_template)
    said = template.render(messages=[{"role": "user", "content": "3 * 8?"}], add_generation_prompt=True)
    assert said == "<|im_start|>user\n3 * 8?<|im_end|>\n<|im_start|>assistant\nAnswer:"
    assert template.render(messages=[{"role": "assistant", "content": " 24"}]).endswith(" 24<|im_end|>\n")

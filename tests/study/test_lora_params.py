"""LoRA's parameters: absent where unset, and refused where nothing would learn."""

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.study import resolve

LORA = {"rank": 4, "alpha": 8}


def with_lora(**changes) -> dict:
    return {"stages": {"sparse_rl": {"lora": LORA | changes}}}


@pytest.mark.parametrize(("profile", "checkpoint"), [("micro", "student.grpo"), ("micro-table-lookup", "student.srpo")])
def test_without_lora_the_resolved_form_has_no_word_of_it(profile, checkpoint):
    resolved = resolve(profile, checkpoint, 0)
    assert "lora" not in resolved.params
    nothing = {"stages": {resolved.stage: {"lora": None}}}
    assert resolve(profile, checkpoint, 0, nothing).hash == resolved.hash


def test_lora_is_a_parameter_of_the_stage_by_role():
    by_role = {"rules": [{"match": {"role": "teacher", "stage": "sparse_rl"}, "set": {"lora": LORA}}]}
    plain, changed = (resolve("micro", "teacher.rl", 0, o) for o in (None, by_role))
    assert changed.hash != plain.hash
    assert changed.params["lora"] == LORA | {"dropout": 0.0, "target_modules": "all-linear", "save": "merged"}
    assert changed.stage_params.lora.rank == 4
    assert resolve("micro", "student.grpo", 0, by_role).hash == resolve("micro", "student.grpo", 0).hash


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rank": 0}, "greater than 0"),
        ({"target_modules": []}, "nothing would be trained"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head can't have an adapter"),
        ({"ranks": 4}, "unknown parameter 'stages.sparse_rl.lora.ranks'"),
    ],
)
def test_what_could_not_learn_is_refused(change, sentence):
    with pytest.raises(StudyError, match=sentence):
        resolve("micro", "student.grpo", 0, with_lora(**change))

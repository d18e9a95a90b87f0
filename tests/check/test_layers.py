"""`s2d check --layers` and a student that another study has made: the order by hand, and one healed end to end."""

import json

import pytest

from s2d_lib.check.layers import leave_out, read_layers
from s2d_lib.cli import main
from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy, model_place
from s2d_lib.plan.cost import shape_of
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import sample
from s2d_lib.stages.validation import token_measures
from s2d_lib.study import resolve
from s2d_lib.study.settings import Hardware, RoleModel
from tests.conftest import TINY, copy_project

HEALED = "run:healing/student.warm.raw_teacher"


def test_the_cheapest_layer_goes_first_and_then_the_cheapest_beside_it():
    run = resolve("micro", "student.warm.raw_teacher", 0)
    problems = load_problems(run.problems).pool[:12]
    teacher = RoleModel(model="micro/chains-teacher")
    whole = load_policy(teacher, Hardware())
    rollouts = sample(whole, problems, samples=1, sampling=run.sampling, seed=1, show=False)

    def cost(kept: list[int]) -> float:
        cut = load_policy(teacher.model_copy(update={"layers": kept}), Hardware())
        return token_measures(cut, whole, problems, rollouts, 12)["forward_kl"].mean().item()

    singles = {place: cost([k for k in range(3) if k != place]) for place in range(3)}
    first = min(singles, key=singles.get)
    pairs = {place: cost([k for k in range(3) if k not in (first, place)]) for place in range(3) if place != first}
    second = min(pairs, key=pairs.get)
    found = leave_out(whole, problems, rollouts, 2, batch=5)
    assert found["layer"].tolist() == [first, second]
    assert found["kept"].tolist() == [sorted({0, 1, 2} - {first}), sorted({0, 1, 2} - {first, second})]
    assert found["forward_kl"].tolist() == pytest.approx([singles[first], pairs[second]], rel=1e-4)
    assert len(whole.model.model.layers) == 3  # as before
    for wrong in (0, 3):
        with pytest.raises(StudyError, match=f"of 3 layers, {wrong} can't be left out: give 1 to 2"):
            leave_out(whole, problems, rollouts, wrong, batch=5)
    with pytest.raises(StudyError, match="'student' has no prompts"):
        read_layers(resolve("micro", "student", 0), 1)


def test_a_student_healed_by_one_study_is_the_base_model_of_another(tmp_path, monkeypatch, capsys):
    root = copy_project(tmp_path)
    monkeypatch.setenv("S2D_HOME", str(root))
    monkeypatch.setenv("S2D_RUNS", str(tmp_path / "runs"))
    cut = {
        "roles": {"student": {"model": "micro/chains-teacher", "layers": [0, 2]}},
        "tables": ["healing"],
        "map": None,
    }
    for name, own in {
        "healing": TINY | cut | {"seeds": [0]},
        "pair": TINY | {"roles": {"student": {"model": HEALED, "layers": None}}},
        "loop": {"roles": {"student": {"model": "run:loop/student.grpo"}}},
    }.items():
        # JSON is YAML
        (root / "params" / f"{name}.yaml").write_text(json.dumps({"extends": "micro", "about": name, **own}))
    with pytest.raises(
        StudyError, match=r"comes from a run that does not exist yet: `s2d study --profile healing` makes it"
    ):
        model_place(HEALED)
    with pytest.raises(StudyError, match=r"'run:loop/student\.grpo' would be made of itself"):
        resolve("loop", "student", 0)
    with pytest.raises(StudyError, match=r"unknown checkpoint 'student\.war'; did you mean"):
        resolve("pair", "student", 0, {"roles": {"student": {"model": "run:healing/student.war"}}})
    assert shape_of(HEALED).layers == 2
    assert main(["check", "--profile", "healing", "--layers", "student.warm.raw_teacher", "--count", "1"]) == 0
    assert "[0, " in capsys.readouterr().out
    for name in ("student", "teacher", "teacher.rollouts.full", "student.warm.raw_teacher"):
        assert main(["run", "--profile", "healing", "--checkpoint", name]) == 0
    student = resolve("pair", "student", 0)
    assert student.weights == resolve("healing", "student.warm.raw_teacher", 0).hash
    assert main(["run", "--profile", "pair", "--checkpoint", "student"]) == 0
    healed = load_policy(student.model, Hardware())
    assert healed.model.config.num_hidden_layers == 2
    other = {"roles": {"student": {"layers": [0, 1]}}}
    assert resolve("healing", "student.warm.raw_teacher", 0, other).hash != student.weights

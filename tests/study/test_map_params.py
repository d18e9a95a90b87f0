"""Maps of profiles: the committed map's dials lay over its runs what they say."""

from s2d_lib.problems.sources import load_problems
from s2d_lib.study import load_profile, points, resolve
from s2d_lib.study.profile import settings_of, settings_text

GRPO, OPD = "student.grpo", "student.opd_only.rl_teacher"


def test_the_profile_lays_its_dials_over_its_runs():
    """All points resolve; runs that a dial does not touch are the same run, whatever cell asks for it."""
    assert settings_of(settings_text({"opening": "1e-4", "warmup": "1/2"})) == {"opening": "1e-4", "warmup": "1/2"}
    settings = load_profile("map")
    asked = [p for p in points("map") if p.part in ("opening", "labels", "prompts", "labeled", "reward")]
    found = {
        (p.part, settings_text(p.cell), p.route, settings_text(p.trial)): resolve("map", p.route, 0, p.overrides)
        for p in asked
    }
    opd = [r for (part, *_), r in found.items() if part == "opening" and r.stage == "opd"]
    assert len({r.parent_hashes["teacher.rl"] for r in opd}) == 1
    own = {r.hash for (part, _, route, _), r in found.items() if part == "opening" and route == OPD}
    assert len(own) == len(settings.map.parts["opening"].across["opening"])
    for (part, cell, route, _), run in found.items():
        pool, dials = run.problems.pool, settings_of(cell)
        if part == "labels" and route == GRPO:
            assert pool.labels == int(dials["labels"])
        if part == "prompts":
            assert (pool.count if hasattr(pool, "count") else pool.labels) == int(dials["prompts"])
        if part == "labeled":
            assert pool.labels == int(dials["labeled_prompts"])


def test_halves_are_of_the_labeled_problems():
    names = ("teacher.rl", "teacher.rl_1H", "student.grpo_2H", "student.bridge.rl_teacher_1H")
    runs = [resolve("map", name, 0, {"problems": {"labels": 512, "prompts": 1024}}) for name in names]
    labeled, first, second, bridge = ({p.id for p in load_problems(run.problems).pool} for run in runs)
    assert (len(labeled), len(first), len(second)) == (512, 256, 256)
    assert first | second == labeled
    assert bridge == first  # what the teacher has learned from, whatever prompts there are beside it

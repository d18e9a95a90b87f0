"""Every route has its own label and its own colour and marker; those of the committed figures stay what they were."""

from collections import Counter

from s2d_lib.report.style import BLACK, ROUTE_COLORS, ROUTE_MARKERS, route_label, route_look
from s2d_lib.study import load_study


def test_no_two_routes_look_the_same_or_are_called_the_same():
    names = list(load_study().checkpoints)
    assert not [look for look, times in Counter(map(route_look, names)).items() if times > 1]
    assert not [label for label, times in Counter(map(route_label, names)).items() if times > 1]


def test_a_route_of_the_headline_keeps_its_look():
    for name in ROUTE_COLORS:
        assert route_look(name) == (ROUTE_COLORS[name], ROUTE_MARKERS[name])


def test_the_colour_says_what_is_done_with_a_raw_teacher_whatever_its_size():
    for transfer in ("bridge", "warm"):
        assert (
            route_look(f"student.{transfer}.raw_teacher")[0] == route_look(f"student.{transfer}.raw_large_teacher")[0]
        )


def test_stage_3_shows_as_a_shade_of_what_came_before_it_and_the_teacher_as_the_marker():
    bridge, fresh, replay = (route_look(f"student.bridge.rl_teacher_1H{end}") for end in ("", ".grpo_2H", ".replay_1H"))
    assert len({bridge[0], fresh[0], replay[0]}) == 3
    assert bridge[1] == fresh[1] == replay[1] == route_look("student.opd_only.rl_teacher_1H.grpo_2H")[1]


def test_labels_say_teacher_half_and_stage_3():
    assert route_label("student.bridge.sft_large_teacher_1H.grpo_2H") == "bridge, SFT large teacher (1H), GRPO on 2H"
    assert route_label("large_teacher.rl_1H") == "RL large teacher (1H)"
    assert route_label("student.bridge.rl_teacher.grpo") == "bridge, RL teacher, GRPO on all labels"
    assert route_label("large_teacher") == "raw large teacher"
    assert route_look("student@best") == route_look("student")
    assert route_label("student.bridge.rl_teacher.topk_tail") == "bridge, RL teacher, top-k estimator"


def test_an_ablation_that_nobody_foresaw_has_a_look_and_a_label_too():
    assert route_look("student.bridge.rl_teacher.jsd")[0] == ROUTE_COLORS["student.bridge.rl_teacher"]
    assert route_label("student.bridge.rl_teacher.jsd") == "bridge, RL teacher, jsd"
    assert route_look("judge.rl.twice") == (BLACK, "o")
    assert route_label("judge.rl.twice") == "judge.rl.twice"

"""Figures of the analysis notebooks: every row with its interval, links to the runs, stages one after the other."""

import pytest

from s2d_lib.plan.shapes import shape_of
from s2d_lib.report.contrasts import contrasts
from s2d_lib.report.cost_figure import cost_figure, route_flops
from s2d_lib.report.differences import contrast_differences, differences_figure, table_differences
from s2d_lib.report.figures import accuracy_figure, curves_figure, of_stages
from s2d_lib.report.paths import path_of, paths_figure
from s2d_lib.report.study_table import study_table
from s2d_lib.report.style import save_figure
from s2d_lib.results.bundle import Bundle

HALF = "student.bridge.rl_teacher_1H.grpo_2H"


def svg_of(figure, folder) -> str:
    save_figure(figure, folder, "figure")
    return (folder / "figure.svg").read_text()


def test_a_title_is_shown_whole(full):
    title = "What does a student learn from its own correct answers, beyond right and wrong?"
    figure = accuracy_figure(full.bundle, study_table(full, "table4").numbers, title)
    figure.draw_without_rendering()
    assert figure.get_suptitle().replace("\n", " ") == title
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1


def test_points_of_accuracies_lead_to_their_runs(full, tmp_path):
    table = study_table(full, "table4")
    svg = svg_of(accuracy_figure(full.bundle, table.numbers, table.title), tmp_path)
    for checkpoint in table.numbers["checkpoint"]:
        assert svg.count(f'xlink:href="runs/{checkpoint}.md"') == 2  # a set each


def test_the_references_own_row_is_no_difference(full, tmp_path):
    table = study_table(full, "table4")
    rows = table_differences(table.numbers)
    assert rows["checkpoint"].tolist() == table.numbers["checkpoint"].tolist()[1:]
    figure = differences_figure(rows, table.sets, "t", {"micro-aime": "../other/"})
    first, second, published = figure.axes  # the third: a set of the paper's that no set stands for
    assert {line.get_marker() for line in published.lines[1:]} == {"D"}
    assert first.get_xlim() == second.get_xlim()
    assert [text.get_text() for text in first.get_yticklabels()] == rows["label"].tolist()
    assert [line.get_marker() for line in first.lines].count("D") == len(rows)
    svg = svg_of(figure, tmp_path)
    assert f'xlink:href="runs/{HALF}.md"' in svg
    assert f'xlink:href="../other/runs/{HALF}.md"' in svg
    assert second.get_title(loc="left") == "micro-aime"


def test_an_interval_is_drawn_for_every_contrast(full):
    rows = contrast_differences(contrasts(full, "stage_3"))
    assert rows["label"][1] == "GRPO on 2H minus replay of 1H · bridge, RL teacher (1H)"
    (axes,) = differences_figure(rows, ["micro-math"], "t").axes
    drawn = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][1:]  # the first is zero
    wanted = rows[["micro-math difference low", "micro-math difference high"]] * 100
    assert drawn == [pytest.approx(pair) for pair in wanted.itertuples(index=False)]


def test_stages_of_a_route_follow_each_other_on_one_axis(full):
    rows = path_of(full.bundle, HALF, "accuracy")
    assert list(dict.fromkeys(rows["stage"])) == ["student.warm.rl_teacher_1H", "student.bridge.rl_teacher_1H", HALF]
    steps = {name: full.bundle.records[name, 0]["optimizer_steps"] for name in set(rows["stage"])}
    starts = rows.groupby("stage")["step"].min()
    assert starts["student.warm.rl_teacher_1H"] == 0
    assert starts[HALF] == steps["student.warm.rl_teacher_1H"] + steps["student.bridge.rl_teacher_1H"]
    assert set(rows["seed"]) == {0, 1}


def test_a_divergence_is_there_for_dense_stages_only(full):
    rows = path_of(full.bundle, HALF, "forward_kl/teacher_states")
    assert list(dict.fromkeys(rows["stage"])) == ["student.warm.rl_teacher_1H", "student.bridge.rl_teacher_1H"]


def test_labels_look_the_same_in_every_panel_and_have_the_range_of_seeds(full, tmp_path):
    panels = {
        name: ("accuracy", {end: f"student.bridge.{teacher}_1H{end}" for end in (".grpo_2H", ".replay_1H", "")})
        for name, teacher in {"one": "rl_teacher", "other": "sft_teacher"}.items()
    }
    figure = paths_figure(full.bundle, panels, "t", "accuracy")
    looks = [
        {(line.get_color(), line.get_linestyle()) for line in axes.lines if line.get_url()} for axes in figure.axes
    ]
    assert looks[0] == looks[1]
    assert len({color for color, _ in looks[0]}) == len({dashes for _, dashes in looks[0]}) == 3
    assert len(figure.axes[0].collections) == 3 + 3 + 2  # a band a stage
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [".grpo_2H", ".replay_1H", ""]
    assert f'xlink:href="runs/{HALF}.md"' in svg_of(figure, tmp_path)


def test_without_validation_a_panel_says_so(full):
    bare = Bundle(full.bundle.evaluation, full.bundle.curves, full.bundle.records)
    (axes, _) = paths_figure(bare, {"a": ("accuracy", {"x": HALF}), "b": ("accuracy", {})}, "t", "accuracy").axes
    assert [text.get_text() for text in axes.texts] == ["not validated"]


def test_the_headlines_curves_are_those_of_its_own_routes(full):
    sparse = of_stages(full.bundle, ("sparse_rl",), ["student.grpo", "student.bridge.rl_teacher"])
    assert set(sparse.curves["checkpoint"]) == {"student.grpo", "teacher.rl"}
    (axes,) = curves_figure(sparse, "reward", "mean reward", "t").axes
    assert len(axes.get_legend().get_texts()) == 2


def test_a_routes_flops_are_those_of_all_that_it_is_made_from(full):
    own, teacher = (shape_of(f"micro/{role}").multiplied for role in ("student", "teacher"))
    spent = {"trained": 900, "sampled": 1200}  # tokens of every run that trains
    grpo = lambda n: 6 * n * spent["trained"] + 2 * n * spent["sampled"]  # noqa: E731
    assert route_flops(full.bundle, "student", 0) == 0
    assert route_flops(full.bundle, "student.grpo", 0) == grpo(own)
    stored = {n for n, s in full.bundle.records if s == 0 and n.startswith("teacher.rl.rollouts")}
    warm = route_flops(full.bundle, "student.warm.rl_teacher", 0) - route_flops(full.bundle, stored.pop(), 0)
    assert warm == grpo(own) + 2 * teacher * spent["trained"]  # the teacher scored what was trained on


def test_every_route_stands_at_what_it_cost(full, tmp_path):
    table = study_table(full, "headline")
    figure = cost_figure(full.bundle, table.numbers, "micro-math", table.title)
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 3
    assert svg_of(figure, tmp_path).count('xlink:href="runs/student.grpo.md"') == 3

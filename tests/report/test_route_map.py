"""Table 1 and Figure 1 say what study.yaml says, also of entries that nobody foresaw."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from matplotlib.patches import FancyBboxPatch

from s2d_lib.errors import StudyError
from s2d_lib.report.pipeline_figure import BOX, columns_of, pipeline_figure
from s2d_lib.report.route_map import lines_of, route_map, routes_of, story, write_route_map
from s2d_lib.report.style import route_label, save_figure
from s2d_lib.study import load_study

NEW = {
    "student.bridge.rl_teacher_1H.twice": {
        "stage": "opd",
        "from": "student.bridge.rl_teacher_1H",
        "teacher": "large_teacher.rl",
        "labels": "2H",
        "overrides": {"beta": 0.5},
    },
}


@pytest.fixture(scope="module")
def study():
    return load_study()


@pytest.fixture
def enlarged(tmp_path, root):
    """The study with one more checkpoint and one more table, in a folder of its own."""
    page = yaml.safe_load((root / "params" / "study.yaml").read_text())
    page["checkpoints"] |= NEW
    page["tables"]["table99"] = {"title": "New?", "rows": [*NEW, "student.grpo"]}
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    return load_study(tmp_path)


@pytest.fixture
def drawn():
    """Figures that are closed at the end."""
    yield pipeline_figure
    plt.close("all")


def boxes(figure) -> list[FancyBboxPatch]:
    """Those of checkpoints, not of labels."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    return [patch for patch in patches if patch.get_height() == BOX[1]]


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_every_row_of_a_table_and_whatever_else_ends_in_nothing_is_a_route(study):
    routes = routes_of(study)
    rows = {row for table in study.tables.values() for row in table.rows}
    assert rows <= set(routes)
    assert "student.warm.rl_teacher_1H" not in routes  # stands in no table and is only a part of other routes
    made_from = {name for route in routes for line in lines_of(study, route) for name in line}
    assert made_from == set(study.checkpoints)  # so every checkpoint is in the map


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ("student", "student: as published"),
        ("large_teacher.sft", "outside: as published -> large teacher: SFT (full)"),
        ("teacher.sft_own", "teacher: SFT on full with filter True"),
        ("student.bridge.raw_teacher", "teacher: as published -> student: forward KL (full), OPD (full)"),
        ("student.bridge.rl_same_size", "student: GRPO on full -> fresh student: forward KL (full), OPD (full)"),
        (
            "student.bridge.rl_teacher_1H.grpo_2H",
            "teacher: GRPO on 1H -> student: forward KL (1H), OPD (1H), GRPO on 2H",
        ),
        (
            "student.forward_kl_only.rl_teacher",
            "teacher: GRPO on full -> student: forward KL (full) for as many steps as forward KL and OPD",
        ),
        (
            "student.bridge.rl_teacher.sampled_token",
            "teacher: GRPO on full -> student: forward KL (full), OPD (full) with estimator sampled_token",
        ),
    ],
)
def test_the_story_of_a_route(study, route, words):
    assert story(study, route) == words


def test_labels_upstream_and_downstream_teacher_and_tables(study):
    rows = route_map(study).set_index("route")
    half = rows.loc["student.bridge.rl_teacher_1H.grpo_2H"]
    assert (half["labels upstream"], half["labels downstream"]) == ("1H", "2H")
    assert (half["teacher"], half["tables"], half["numbers"]) == (
        "teacher.rl_1H",
        "table4, table6, table7, components",
        "4, 6, 7",
    )
    assert half["label"] == route_label("student.bridge.rl_teacher_1H.grpo_2H")
    assert rows.loc["student.grpo", ["labels upstream", "labels downstream"]].tolist() == ["", "full"]
    assert rows.loc["student.bridge.raw_teacher", ["labels upstream", "labels downstream"]].tolist() == ["", ""]
    assert rows.loc["student.bridge.rl_same_size", ["labels upstream", "labels downstream"]].tolist() == ["full", ""]
    teacher = rows.loc["teacher.rl"]
    assert (teacher["ends in"], teacher["labels upstream"], teacher["labels downstream"]) == ("teacher", "full", "")


def test_a_new_entry_appears_by_itself(enlarged, study):
    (name,) = NEW
    row = route_map(enlarged).set_index("route").loc[name]
    assert row["stages"] == (
        "teacher: GRPO on 1H -> large teacher: GRPO on full -> student: forward KL (1H), OPD (1H), OPD (2H) with beta 0.5"
    )
    assert row["labels upstream"] == "1H and full"
    assert (row["tables"], row["numbers"]) == ("table99", "99")
    assert len(route_map(enlarged)) == len(route_map(study)) + 1
    assert route_map(enlarged).set_index("route").loc["student.grpo", "numbers"].endswith("99")


def test_the_three_forms(study, tmp_path):
    write_route_map(study, tmp_path)
    assert pd.read_csv(tmp_path / "route_map.csv")["route"].tolist() == routes_of(study)
    text = (tmp_path / "route_map.md").read_text()
    assert "| bridge, RL teacher (1H), GRPO on 2H " in text
    assert r"\begin{longtable}" in (tmp_path / "route_map.tex").read_text()


def test_whatever_is_made_stands_right_of_what_it_is_made_from(study):
    lines = lines_of(study, "student.bridge.rl_teacher_1H.grpo_2H")
    assert columns_of(study, lines) == [[0, 1], [1, 2, 3, 4]]
    assert columns_of(study, lines_of(study, "student.bridge.raw_teacher")) == [[0], [0, 1, 2]]
    assert columns_of(study, lines_of(study, "teacher")) == [[0]]


def test_the_pipeline_has_the_ancestrys_boxes_stages_and_labels(study, drawn, tmp_path):
    figure = drawn(study)
    assert len(boxes(figure)) == 2 + 4 + 2
    shown = words(figure)
    assert [t for t in shown if t.startswith("Stage")] == ["Stage 1", "Stage 2a", "Stage 2b", "Stage 3"]
    assert [t for t in shown if t.startswith("labels")] == ["labels 1H", "labels 2H", "labels full"]
    assert shown.count("deployed") == 2
    assert "cold RL" in shown
    assert figure.get_figwidth() == 6.5
    assert all(path.stat().st_size for path in save_figure(figure, tmp_path, "pipeline"))


def test_the_pipeline_is_drawn_from_whichever_checkpoint(enlarged, drawn):
    figure = drawn(enlarged, *NEW, "student.teacher_sample_sft.rl_same_size")
    assert len(boxes(figure)) == 2 + 2 + 4 + 2 + 2
    flows = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "teacher's answers, as text" in flows
    assert words(figure).count("Stage 1") == 3


@pytest.mark.parametrize(
    "bridged", ["student.bridge.rl_teacher_1H.grpo_2H", "student.bridge.sft_large_teacher_1H.grpo_2H"]
)
def test_words_fit_their_boxes(study, drawn, bridged):
    figure = drawn(study, bridged, "student.teacher_sample_sft.rl_teacher")
    figure.draw_without_rendering()
    frames = [box.get_window_extent() for box in boxes(figure)]
    for text in figure.axes[0].texts:
        place = text.get_window_extent()
        middle = ((place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2)
        for frame in (frame for frame in frames if text.get_text() and frame.contains(*middle)):
            assert frame.x0 < place.x0 < place.x1 < frame.x1, text.get_text()


def test_an_unknown_checkpoint_gets_a_hint(study):
    with pytest.raises(StudyError, match=r"no checkpoint 'student.gpro'; did you mean 'student.grpo'\?"):
        pipeline_figure(study, direct="student.gpro")

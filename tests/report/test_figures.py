"""Figures of the analysis notebooks: every row with its interval, links to the runs, stages one after the other."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from s2d_lib.batch import draw
from s2d_lib.report import figures
from s2d_lib.report.figures import Line, Mark
from s2d_lib.report.show import validation_curves
from s2d_lib.report.style import save_figure
from s2d_lib.study import needed
from tests.conftest import ROOT
from tests.report.conftest import only, write_bundle

HALF = "student.bridge.rl_teacher_1H.grpo_2H"


def svg_of(figure, folder) -> str:
    save_figure(figure, folder, "figure")
    return (folder / "figure.svg").read_text()


def test_a_mark_stands_at_its_place_with_its_interval_and_leads_to_its_page(tmp_path):
    marks = [Mark(0, 1.0, 0.5, 2.0, page="runs/a.md"), Mark(1, -3.0)]
    figure = figures.forest(
        {"one": marks, "two": []}, ["a", "b"], "A title that is longer than the figure is wide: " * 3, "points"
    )
    first, second = figure.axes
    drawn = [line.get_xydata().tolist() for line in first.lines]
    assert [[1.0, 0.0]] in drawn
    assert [[-3.0, 1.0]] in drawn
    assert [[0.5, 0.0], [2.0, 0.0]] in [segment.tolist() for c in first.collections for segment in c.get_segments()]
    assert first.get_xlim() == second.get_xlim()
    assert [text.get_text() for text in first.get_yticklabels()] == ["a", "b"]
    figure.draw_without_rendering()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
    assert svg_of(figure, tmp_path).count('xlink:href="runs/a.md"') == 1


def test_lines_have_bands_or_bars_and_one_entry_a_label_in_the_legend():
    own = Line("a", [0, 1], [1.0, 2.0], [0.5, 1.5], [1.5, 2.5], "#000000")
    panels = {"one": [own, own._replace(label="b")], "two": [own], "three": []}
    band = figures.lines(panels, "t", "x", "y", True, ncols=2, dotted={"two": [0.5]}, ylim=(0, 3))
    assert [len(axes.collections) for axes in band.axes] == [2, 1, 0, 0]
    assert [text.get_text() for text in band.legends[0].get_texts()] == ["a", "b"]
    assert [line.get_xdata()[0] for line in band.axes[1].lines if line.get_linestyle() == ":"] == [0.5]
    assert [text.get_text() for text in band.axes[2].texts] == ["not measured"]
    bars = figures.lines({"one": [own]}, "t", "x", ticks=["first", "second"])
    assert [text.get_text() for text in bars.axes[0].get_xticklabels()] == ["first", "second"]
    (ends,) = bars.axes[0].collections
    assert [segment[:, 1].tolist() for segment in ends.get_segments()] == [[0.5, 1.5], [1.5, 2.5]]


def test_stages_of_a_route_follow_each_other_on_one_axis(full):
    stages = ["student.warm.rl_teacher_1H", "student.bridge.rl_teacher_1H", HALF]
    rows = figures.path_of(full.bundle, HALF, "accuracy")
    assert list(dict.fromkeys(rows["stage"])) == stages
    first, second = (full.bundle.records[name, 0]["optimizer_steps"] for name in stages[:2])
    assert rows.groupby("stage")["step"].min().loc[stages].tolist() == [0, first, first + second]
    assert set(rows["seed"]) == {0, 1}
    assert set(figures.path_of(full.bundle, HALF, "forward_kl/teacher_states")["stage"]) == set(stages[:2])


def test_labels_look_the_same_in_every_panel_and_have_the_range_of_seeds(full, tmp_path):
    panels = {
        name: ("accuracy", {end: f"student.bridge.{teacher}_1H{end}" for end in (".grpo_2H", ".replay_1H", "")})
        for name, teacher in {"one": "rl_teacher", "other": "sft_teacher"}.items()
    }
    figure = figures.paths_figure(full.bundle, panels, "t", "accuracy")
    drawn = ([line for line in axes.lines if line.get_url()] for axes in figure.axes)
    one, other = ({(line.get_color(), line.get_linestyle()) for line in own} for own in drawn)
    assert one == other
    assert len({color for color, _ in one}) == len({dashes for _, dashes in one}) == 3
    assert len(figure.axes[0].collections) == 3 + 3 + 2  # a band a stage
    assert f'xlink:href="runs/{HALF}.md"' in svg_of(figure, tmp_path)


def test_the_curves_of_a_table_are_those_of_its_own_routes(full):
    routes = ["student.grpo", "student.bridge.rl_teacher"]
    curves = figures.step_curves(full.bundle, ("sparse_rl",), routes, "reward")
    assert [line.label for line in curves] == ["RL teacher", "direct GRPO"]
    own = full.bundle.curves[full.bundle.curves["checkpoint"] == "student.grpo"].set_index(["seed", "step"])["reward"]
    assert curves[1].mean.loc[5] == pytest.approx(own.loc[[(s, t) for s in (0, 1) for t in range(1, 6)]].mean())
    untrained = replace(full.bundle, curves=full.bundle.curves[["checkpoint", "seed", "step"]].head(0))
    assert figures.step_curves(untrained, ("sparse_rl",), ["student"], "reward") == []


def test_a_stage_shows_its_validation(tmp_path, capsys):
    run = type("Run", (), {"path": staticmethod(tmp_path.joinpath)})
    assert validation_curves(run) is None
    assert capsys.readouterr().out.count("\n") == 1
    states = [f"{kind}_kl/{states}_states" for kind in ("forward", "reverse") for states in ("teacher", "student")]
    for columns, shown in ((["accuracy", *states], [1, 2, 2]), (["accuracy", "length"], [1])):
        rows = [{"step": step} | dict.fromkeys(columns, 0.5) for step in (0, 25, 50)]
        pd.DataFrame(rows).to_csv(tmp_path / "validation.csv", index=False)
        assert [len(axes.lines) for axes in validation_curves(run).axes] == shown


@pytest.mark.slow
def test_a_committed_notebook_is_drawn_from_results_alone_and_again_byte_for_byte(full, tmp_path, monkeypatch):
    """Of the generic notebook tests/test_pipeline.py makes a copy in figures/ twice."""
    for name in ("params", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    claims, profile = (tmp_path / "params" / f"{name}.yaml" for name in ("claims", "micro-full"))
    claims.write_text(claims.read_text().replace("micro-full: {Qwen3", "micro: {Qwen3"))
    profile.write_text(yaml.safe_dump(yaml.safe_load(profile.read_text()) | {"tables": ["table7"]}))
    figures, notebook = tmp_path / "figures" / "micro-full", tmp_path / "notebooks" / "94_placement.ipynb"
    write_bundle(only(full.bundle, needed("micro-full", tmp_path)), figures / "results")
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    assert list(draw("micro-full"))[1:] == ["notebooks/94_placement.ipynb"]
    assert {"table7.csv", "placement.csv", "placement.svg"} <= {path.name for path in figures.iterdir()}
    assert not [path for path in figures.iterdir() if path.suffix in (".pdf", ".tex")]
    cells = json.loads(notebook.read_text())["cells"]
    assert any(cell.get("outputs") for cell in cells)
    assert not any("injected-parameters" in cell["metadata"].get("tags", []) for cell in cells)
    files = lambda: {path: path.read_bytes() for path in [notebook, *figures.rglob("*")] if path.is_file()}  # noqa: E731
    drawn = files()
    shutil.rmtree(figures / "runs")
    assert list(draw("micro-full"))[1:] == ["notebooks/94_placement.ipynb"]
    assert files() == drawn

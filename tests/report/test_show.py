"""What stage notebooks show of the validation."""

import pandas as pd

from s2d_lib.report.show import validation_curves

DIVERGENCES = [f"{kind}_kl/{states}_states" for kind in ("forward", "reverse") for states in ("teacher", "student")]


class Folder:
    """A run as far as it is shown."""

    def __init__(self, path):
        self.path = path.joinpath


def written(folder, columns):
    pd.DataFrame([{"step": step} | dict.fromkeys(columns, 0.5) for step in (0, 25, 50)]).to_csv(
        folder / "validation.csv", index=False
    )
    return Folder(folder)


def test_a_dense_stage_shows_accuracy_and_both_divergences_on_both_states(tmp_path):
    figure = validation_curves(written(tmp_path, ["accuracy", "length", *DIVERGENCES]))
    assert [len(axes.lines) for axes in figure.axes] == [1, 2, 2]


def test_a_sparse_stage_shows_accuracy(tmp_path):
    figure = validation_curves(written(tmp_path, ["accuracy", "length"]))
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy"]


def test_without_validation_there_is_one_line(tmp_path, capsys):
    assert validation_curves(Folder(tmp_path)) is None
    assert capsys.readouterr().out.count("\n") == 1

"""What a new user mistypes, and what the first lines of a run say."""

from __future__ import annotations

import os

import numpy as np
import pytest
from launched import call, small_data

import distnewton
from distnewton.cli.main import main, parse
from distnewton.config import make_config
from distnewton.errors import ConfigError, MissingInputError, UsageError

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")), reason="programs of one process"
)


@pytest.mark.parametrize(("arguments", "text"), [
    (["trian"], "there is no command 'trian'; did you mean train?"),
    (["eval", "run", "data"], "there is no command 'eval'; did you mean evaluate?"),
    (["xyz"], "there is no command 'xyz'; there are train, compare, evaluate"),
    (["train", "--run.iteration", "5"], "unknown argument --run.iteration; did you mean --run.iterations?"),
    (["train", "--run.iteration=5"], "unknown argument --run.iteration=5; did you mean --run.iterations?"),
    (["train", "-s", "1", "-c", "10", "file"], "unknown argument -s; LIBLINEAR's options belong to dist"),
    (["train", "--test", "file"], "unknown argument --test; did you mean --data.test?"),
    (["train", "--epochs=3"], "unknown argument --epochs=3; did you mean --run.iterations?"),
    (["train", "--batch-size", "3"], "unknown argument --batch-size; did you mean --method.batch?"),
    (["train", "--max-second", "3"], "unknown argument --max-second; did you mean --run.max_seconds?"),
    (["train", "--zzz"], "unknown argument --zzz\ntry: distnewton train --help"),
    (["train", "--quie"], "unknown argument --quie; did you mean --quiet?"),
])  # fmt: skip
def test_mistyped_words_are_not_guessed_but_corrected(arguments, text):
    with pytest.raises(UsageError) as error:
        parse(arguments)
    assert text in str(error.value)


def test_a_dry_run_is_the_plan_of_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("a,b,kind\n" + "".join(f"{i}.5,{-i},{'xy'[i % 2]}\n" for i in range(20)))
    flags = ["--data.train", "table.csv", "--network.layers", "auto-7-auto"]
    assert main(["train", *flags, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "2-7-2: 37 variables, 20 samples" in shown
    assert main(["plan", *flags, "--ranks", "1"]) == 0
    assert capsys.readouterr().out == shown
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("labels", "told"), [
    ([1900 + i // 2 for i in range(60)], True),
    ([i % 20 for i in range(60)], False),
    # amounts have rare values at their ends, classes seldom do
    ([i % 29 for i in range(290)], False),
    ([*(i % 29 for i in range(290)), 31], True),
    ([(i % 30) / 4 for i in range(360)], True),
    ([f"town {i // 2}" for i in range(60)], False),
])  # fmt: skip
def test_whole_numbers_that_look_like_amounts_are_told(tmp_path, monkeypatch, capsys, labels, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("a,built\n" + "".join(f"{i}.5,{label}\n" for i, label in enumerate(labels)))
    assert main(["train", "--data.train", "table.csv", "--run.iterations", "0", "--run-dir", "run"]) == 0
    text = "different labels are taken as classes; to approximate numbers set network.loss = squared"
    assert (text in capsys.readouterr().out) is told


def test_weights_of_classes_and_columns_as_a_command_line_has_them():
    def data(**table):
        return make_config({"data": table}).data

    assert data(class_weights="spam=5, -1=0.5").class_weights == {"spam": 5.0, "-1": 0.5}
    assert data(class_weights="balanced").class_weights == "balanced"
    with pytest.raises(ConfigError, match="expected weights of labels, such as spam=5,ham=1, got 'spam=much'"):
        data(class_weights="spam=much")
    assert data(ignore_columns="id,name, -1").ignore_columns == ["id", "name", -1]
    assert data(ignore_columns=0).ignore_columns == [0]
    assert data(ignore_columns=["a,b"]).ignore_columns == ["a,b"]
    assert data().ignore_columns == []


def test_a_run_says_where_the_labels_are_and_nothing_of_settings_that_nobody_gave(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("kind,a,id\n" + "".join(f"{'xy'[i % 2]},{i}.5,n{i}\n" for i in range(20)))
    flags = ["--data.label_column", "kind", "--data.ignore_columns", "id", "--run.iterations", "1", "--run-dir"]
    assert main(["train", "--data.train", "table.csv", *flags, "run"]) == 0
    shown = capsys.readouterr().out
    assert "table.csv: 20 samples, 1 features (dense file), labels in column kind" in shown
    assert "subsample_min" not in shown
    assert main(["train", "--data.train", "table.csv", "--method.subsample_min", "100", *flags, "run2"]) == 0
    assert "method.subsample_min exceeds the number of samples, 20: all are used" in capsys.readouterr().out


def test_a_resumed_run_says_that_its_old_limit_holds_and_info_counts_beyond_the_new_number(tmp_path):
    run = tmp_path / "run"
    train = ["train", "--data.train", small_data(tmp_path), "--network.layers=auto-3-auto"]
    assert call(*train, "--run-dir", run, "--run.iterations=2", "--run.max_seconds=1000").returncode == 0
    again = call("train", "--resume", run, "--run.iterations=1")
    assert "run.max_seconds = 1000 of the run limits this command too; --run.max_seconds inf lifts it" in again.stderr
    assert "max_seconds" not in call("train", "--resume", run, "--run.iterations=3", "--run.max_seconds=inf").stderr
    assert call("train", "--resume", run, "--run.iterations=1").returncode == 0
    assert "\niterations 3 in " in call("info", run).stdout


def test_what_is_missing_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(MissingInputError, match=r"set data.directory to the folder of the data\n.* --sizes samples=N,"):
        main(["plan", "letter", "--ranks", "4"])
    with pytest.raises(MissingInputError, match="runs/none is not a run folder: it does not exist"):
        main(["why", "runs/none"])
    with pytest.raises(MissingInputError, match="file is not a run folder: it is a file"):
        main(["info", "file"])


def test_a_model_says_what_it_is():
    config = make_config({"network": {"layers": ["auto", 3, "auto"], "activation": "tanh"}, "run": {"iterations": 1}})
    model = distnewton.train(config, train_data=(np.eye(6), np.arange(6) % 2)).model
    assert repr(model) == "<Model: classification with 6-3-2, tanh, cross_entropy>"

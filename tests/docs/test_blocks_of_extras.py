"""Code of pages that the other tests leave out, since it needs an extra or files: here it runs where those are."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from launched import launching, mpirun, run, small_data
from safetensors.numpy import load_file

import distnewton
from distnewton.cli import liblinear_commands as liblinear
from distnewton.cli.main import main

REPOSITORY = Path(__file__).parents[2]
LEFT_OUT = re.compile(r"<!-- not run: [^\n]* -->\n```(\w+)\n(.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")), reason="programs of one process"
)


def left_out(page, language):
    """Blocks of a page that are marked as not run."""
    found = LEFT_OUT.findall((REPOSITORY / page).read_text(encoding="utf-8"))
    return [body for kind, body in found if kind == language]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/guide/from_liblinear.md"])
def test_liblinears_commands_run(page, place, capsys):
    rows = "".join(f"{(-1) ** i} 1:{i % 5} 2:{(-1) ** i * 0.5}\n" for i in range(20))
    programs = {"distnewton-train": liblinear.train, "distnewton-predict": liblinear.predict, "distnewton": main}
    ran = []
    for line in "".join(left_out(page, "sh")).splitlines():
        program, *words = shlex.split(line, comments=True)
        for name in words:
            if re.fullmatch(r"(a9a|heart_scale)(\.t)?", name):
                (place / name).write_text(rows)
        if program == "distnewton":
            # the page's run of a linear network
            folder = ["--run-dir", words[1], "--data.train", "a9a", "--network.layers", "auto-auto", "--quiet"]
            assert main(["train", *folder, "--run.iterations", "1"]) == 0
        assert programs[program](words) == 0
        ran.append(program)
    assert ran[:2] == ["distnewton-train", "distnewton-predict"]
    assert "Accuracy = 100% (20/20)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:training ended after max_iter")
@pytest.mark.parametrize(
    ("page", "classes"), [("README.md", ["other", "same"]), ("docs/guide/from_pytorch.md", ["ant", "bee", "cat"])]
)
def test_modules_of_torch_go_there_and_back(page, classes, place):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    X = np.random.default_rng(0).standard_normal((60, 8))
    n = len(classes)
    y = np.array(classes)[np.arange(60) % n]
    module = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Tanh(), torch.nn.Linear(5, n))
    config = distnewton.make_config({"network": {"layers": [8, 5, n]}, "run": {"iterations": 2}})
    result = distnewton.train(config, train_data=(X, y))
    names = {"distnewton": distnewton, "comm": None, "data": (X, y), "module": module, "X": X, "y": y, "result": result}
    (body,) = [body for body in left_out(page, "python") if "to_torch" in body]
    exec(compile(body, page, "exec"), names)
    outputs = names["module"](torch.from_numpy(X.astype(np.float32)))
    assert outputs.shape == (60, n)
    if "start" in names:
        distnewton.train(config, train_data=(X, y), start=names["start"])


def test_torch_loads_the_model_file(place):
    torch = pytest.importorskip("torch")
    text = (REPOSITORY / "docs/guide/python.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"^```python\n(.*?)^```$", text, re.M | re.S)[1], names)
    (body,) = [body for body in left_out("docs/guide/python.md", "python") if "load_state_dict" in body]
    exec(body, names)
    X = names["X"]
    scaled = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    chosen = names["network"](torch.from_numpy(scaled)).argmax(dim=1)
    assert np.array_equal(np.array(["other", "same"])[chosen], names["model"].predict(X))


@launching
def test_the_script_runs_on_ranks_and_resumes(place):
    (body,) = [body for body in left_out("docs/guide/python.md", "python") if "COMM_WORLD" in body]
    (place / "script.py").write_text(body)
    tables = '[data]\ntrain = "data.csv"\n[network]\nlayers = ["auto", 5, "auto"]\n[run]\niterations = 2\n'
    (place / "recipe.toml").write_text(tables.replace("data.csv", str(small_data(place))))
    saved = []
    for _ in range(2):
        done = run([*mpirun(2), sys.executable, "-m", "mpi4py", "script.py"], cwd=place)
        assert done.returncode == 0, done.stderr
        saved.append(load_file(place / "model.safetensors"))
    # the second launch resumes at the end of the first
    assert all((saved[0][name] == saved[1][name]).all() for name in saved[0])


def test_a_model_is_exported_to_onnx(place):
    onnx = pytest.importorskip("onnx")
    (body,) = [body for body in left_out("docs/guide/from_pytorch.md", "sh") if "onnx" in body]
    _, *words = shlex.split(body)
    assert main(["train", "--data.train", str(small_data(place)), "--run-dir", words[1], "--run.iterations", "1"]) == 0
    assert main(words) == 0
    assert [output.name for output in onnx.load(words[2]).graph.output][:2] == ["outputs", "label"]

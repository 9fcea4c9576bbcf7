"""The components of docs/examples as a package of their own, installed beside this one and used as users would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from launched import call, distnewton, launches, mpirun, run, several

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "docs" / "examples"
ENTRY_POINTS = """\
[distnewton.directions]
diagonal_newton = diagonal_newton:DiagonalNewton
lbfgs = lbfgs:LBFGS
levenberg_marquardt = levenberg_marquardt:LevenbergMarquardt

[distnewton.losses]
huber = huber:Huber

[distnewton.activations]
softsign = softsign:Softsign

[distnewton.layers]
global_avg_pool = global_average_pooling:GlobalAveragePooling

[distnewton.formats]
matlab = matlab:Matlab
"""
MODULES = ("diagonal_newton", "lbfgs", "levenberg_marquardt", "huber", "softsign", "global_average_pooling", "matlab")
pytestmark = launches


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder in which pip has installed the package."""
    folder = tmp_path_factory.mktemp("outside")
    wheel, info = folder / "outside-1.0-py3-none-any.whl", "outside-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in MODULES:
            archive.write(EXAMPLES / f"{name}.py", f"{name}.py")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", ENTRY_POINTS)
        archive.writestr(f"{info}/RECORD", "")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        # what pip does with a wheel of pure Python
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def matlab(tmp_path_factory):
    """A MATLAB file of a regression problem with a few outliers."""
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 5))
    y = X @ rng.standard_normal(5) + np.sin(X[:, 0])
    y[:5] += 30.0
    path = tmp_path_factory.mktemp("data") / "regression.mat"
    savemat(path, {"X": X, "y": y})
    return path


def start(site, *arguments, n_ranks=1):
    """Run the command with the package on its path."""
    launcher = mpirun(n_ranks) if n_ranks > 1 else []
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return run([*launcher, *distnewton(*arguments)], PYTHONPATH=path)


def start_several(site, *commands, n_ranks=1):
    """Run commands after each other in one process (a rank) with the package on its path."""
    launcher = mpirun(n_ranks) if n_ranks > 1 else []
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return run([*launcher, *several(*commands)], PYTHONPATH=path)


def settings(matlab, direction):
    return [
        f"--data.train={matlab}", "--network.layers=auto-8-auto", "--network.loss=huber",
        "--network.activation=softsign", f"--method.direction={direction}", "--run.dtype=float64", "--run.seed=1",
    ]  # fmt: skip


def objectives(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["objective"] for line in lines]


def test_help_lists_components_and_their_options(installed):
    done = start(installed, "train", "--help-all")
    assert done.returncode == 0, done.stderr
    for name in ("diagonal_newton", "lbfgs", "huber", "softsign", "matlab", "--method.memory"):
        assert name in done.stdout
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "from distnewton.cli.liblinear_commands import train_console as main; main()"]
    done = subprocess.run(
        [*command, "--help"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


DIRECTIONS = ["diagonal_newton", "lbfgs", "levenberg_marquardt"]


@pytest.fixture(scope="module")
def resumed(installed, matlab, tmp_path_factory):
    """Folder with runs of each direction on two ranks, resumed on one, beside whole ones; and what was printed."""
    folder = tmp_path_factory.mktemp("runs")
    given = {name: [*settings(matlab, name), *["--method.memory=4"] * (name == "lbfgs")] for name in DIRECTIONS}
    begun = [["train", *given[name], f"--run-dir={folder / name}", "--run.iterations=12"] for name in DIRECTIONS]
    done = start_several(installed, *begun, n_ranks=2)
    assert done.returncode == 0, done.stderr
    commands = []
    for name in DIRECTIONS:
        # the same steps without a stop, and on one rank
        commands += [["train", *given[name], f"--run-dir={folder / name}-whole", "--run.iterations=16"],
                     ["train", "--resume", folder / name, "--run.iterations=16"],
                     ["info", folder / name]]  # fmt: skip
    # drawing costs as much as the runs: the direction that has an option of its own
    commands.append(["report", folder / "lbfgs"])
    done = start_several(installed, *commands)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_run_that_is_resumed_on_another_grid(resumed, direction):
    folder, told = resumed
    assert told.count(f"report: {folder / direction / 'report.html'}") == (direction == "lbfgs")
    found, expected = objectives(folder / direction), objectives(folder / f"{direction}-whole")
    assert len(found) == len(expected) == 17
    assert found[-1] < 0.65 * found[0]  # the outliers stay
    np.testing.assert_allclose(found, expected, rtol=1e-7 if direction == "lbfgs" else 1e-5)


def test_compare_and_plan(installed, matlab):
    given = [option for option in settings(matlab, "adam") if "direction" not in option]
    plan = [[f"--set={option[2:]}" for option in settings(matlab, name)] for name in ("diagonal_newton", "lbfgs")]
    done = start_several(
        installed,
        ["compare", *given, "--directions=lbfgs,adam", "--seconds=0.2"],
        ["plan", *plan[0], "--ranks=4"],
        ["plan", *plan[1], "--ranks=4"],
    )
    assert "lbfgs" in done.stdout
    # of the last command: the others succeed
    assert done.returncode == 78
    assert "there is no model of lbfgs" in done.stderr


PROGRAM = """
import numpy as np
import distnewton
from distnewton.sklearn import NewtonRegressor
rng = np.random.default_rng(0)
X = rng.standard_normal((80, 4)); y = X[:, 0] - X[:, 1]
model = NewtonRegressor(hidden_layer_sizes=6, activation="softsign", direction="lbfgs", max_iter=30, random_state=0)
assert model.fit(X, y).score(X, y) > 0.8
try:
    import torch
except ModuleNotFoundError:
    raise SystemExit
from distnewton.torch import to_torch
network = to_torch(model.model_)
assert any(isinstance(layer, torch.nn.Softsign) for layer in network.modules())
"""


def test_a_layer_on_two_ranks_and_in_its_model(installed, tmp_path):
    """Global average pooling is pooling by a window as large as the image."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=80)
    images = rng.standard_normal((80, 1, 6, 4)) + labels[:, None, None, None]
    np.savez(tmp_path / "images.npz", X=images, y=labels)
    for name, table in {"own": '{type = "global_avg_pool"}', "same": '{type = "avg_pool", size = [4, 2]}'}.items():
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(f"""
            data.train = "{tmp_path / "images.npz"}"
            network.layers = [{{type = "conv", channels = 3, kernel = 3}}, {table}, {{type = "dense", width = "auto"}}]
            run.iterations = 5
            run.dtype = "float64"
        """)
    train = [["train", tmp_path / f"{name}.toml", f"--run-dir={tmp_path / name}"] for name in ("own", "same")]
    evaluate = ["evaluate", tmp_path / "own", tmp_path / "images.npz"]
    done = start_several(installed, *train, evaluate, n_ranks=2)
    assert done.returncode == 0, done.stderr
    assert objectives(tmp_path / "own") == objectives(tmp_path / "same")
    done = call(*evaluate)
    assert done.returncode != 0
    assert "unknown layer 'global_avg_pool'" in done.stderr


def test_estimators_and_torch_know_them(installed):
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run([sys.executable, "-c", PROGRAM], PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


def test_pages_show_every_example():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs").rglob("*.md"))
    for name in MODULES:
        assert f"examples/{name}.py" in pages

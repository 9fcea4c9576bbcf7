"""No command replaces what it reads, or a file of a run, however its path is written."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
from launched import call

from distnewton.data.sources import open_data
from distnewton.data.store.convert import convert

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")), reason="programs of one process"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    lines = [f"{a:.3f},{b:.3f},{'ab'[int(a > b)]}" for a, b in X]
    (folder / "d.csv").write_text("\n".join(["x,y,label", *lines]) + "\n")
    np.save(folder / "X.npy", X)
    np.save(folder / "X_labels.npy", (X[:, 0] > X[:, 1]).astype(int))
    convert(open_data(folder / "d.csv"), folder / "store", files=[])
    settings = ["--run.iterations", "3", "--network.layers", "auto-auto", "--run.checkpoint_minutes", "0", "--quiet"]
    done = call("train", "--data.train", folder / "d.csv", *settings, "--run-dir", folder / "run")
    assert done.returncode == 0, done.stderr
    done = call("train", "--data.train", folder / "X.npy", *settings, "--run-dir", folder / "arrays")
    assert done.returncode == 0, done.stderr
    shutil.copy(folder / "run" / "model.safetensors", folder / "alone.onnx")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "w")
    (tmp_path / "w" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def state(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


CHECKPOINT = "run/checkpoints/step-000003/manifest.json"
TARGETS = {
    "predict run d.csv --out": ["d.csv", "run/model.safetensors", "run/config.toml", "run/metrics.jsonl", CHECKPOINT],
    "evaluate run d.csv --json": ["d.csv", "run/model.safetensors", "run/environment.json", CHECKPOINT],
    "predict run/model.safetensors d.csv --out": ["run/model.safetensors", "run/config.toml"],
    "predict alone.onnx d.csv --out": ["alone.onnx", "d.csv"],
    "predict arrays X.npy --out": ["X.npy", "X_labels.npy"],
    "evaluate arrays X.npy,X_labels.npy --json": ["X.npy", "X_labels.npy"],
    "predict run store --out": ["store/store.json", "store/labels.npy", "store/features.bin"],
    "predict run d.csv --data-dir . --out": ["d.csv"],
    "export alone.onnx": ["alone.onnx"],
    "report run --out": ["run/config.toml", "run/model.safetensors"],
    "convert d.csv": ["d.csv", "run"],
}
CASES = [(command, target) for command, targets in TARGETS.items() for target in targets]


def spellings(place, target):
    """The same file by other paths."""
    yield target
    yield f"./sub/../{target}"
    yield str(place / target)
    os.symlink(place / target, "link.onnx")
    yield "link.onnx"
    os.symlink(place, "around")
    yield f"around/{target}"
    if (place / target).is_file():
        os.link(target, "hard.onnx")
        yield "hard.onnx"


@pytest.mark.parametrize(("command", "target"), CASES, ids=[f"{command} {target}" for command, target in CASES])
def test_nothing_that_is_read_is_replaced(place, command, target):
    before = state(place)
    for path in spellings(place, target):
        words = command.split()
        done = call(*words, path) if words[-1].startswith("--out") or words[-1] == "--json" else call(
            words[0], *words[1:2], path, *words[2:]
        )
        # a file by another hard link keeps its content when that link is replaced
        assert done.returncode == 73 or path == "hard.onnx", (path, done.stdout, done.stderr)
        after = {name: value for name, value in state(place).items() if name in before}
        assert after == before, path
        assert not [name for name in state(place) if name.endswith(".part")]


def test_other_files_in_a_run_folder_may_be_written_again(place):
    for _ in range(2):
        assert call("predict", "run", "d.csv", "--out", "run/labels.txt").returncode == 0
        assert call("report", "run").returncode == 0

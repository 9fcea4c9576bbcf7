"""The switch as a user turns it: flags, the head of a run, environment.json, refusals without cupy."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from benchmarks.device import main as benchmark
from rich.console import Console
from strict_device import StrictGpus

import distnewton
from distnewton.backend import gpu
from distnewton.cli.main import main, parse
from distnewton.cli.settings import overrides
from distnewton.config import load_config
from distnewton.errors import ConfigError, MissingExtraError
from distnewton.launch import devices
from distnewton.parallel.collectives import Communicator
from distnewton.reporting.progress import Progress


@pytest.fixture
def no_cupy(monkeypatch):
    """As if it were not installed, whether it is or not."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    gpu.cupy_library.cache_clear()
    yield
    gpu.cupy_library.cache_clear()


def head(device, **run):
    rng = np.random.default_rng(0)
    config = distnewton.make_config({
        "network": {"layers": ["auto", 3, "auto"]}, "run": {"iterations": 1, "device": device, "threads": 1, **run},
    })  # fmt: skip
    out = io.StringIO()
    data = distnewton.ArraySource(rng.standard_normal((20, 4)), rng.integers(2, size=20))
    distnewton.train(config, train_data=data, observers=[Progress(Console(file=out, width=200))])
    return out.getvalue()


@pytest.mark.parametrize("flags", [["--device", "gpu"], ["--run.device=gpu"], ["--set", "run.device=gpu"]])
def test_flags(flags):
    options = parse(["train", "--data.train=x", *flags])
    assert load_config(None, overrides(options)).run.device == "gpu"


def test_the_head_of_a_run_names_the_device(monkeypatch, no_cupy):
    assert "device" not in head("cpu")
    text = head("auto")
    assert "device   CPU\n" in text
    assert "note     no GPU, the CPU computes: cupy is not installed (pip install 'distnewton[gpu]') (rank 0)" in text
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    for device in ("auto", "gpu"):
        assert "device   strict device\n" in head(device)


def test_tf32_where_it_is_asked_for(monkeypatch, no_cupy):
    assert "note     no GPU, the CPU computes, without TF32: cupy" in head("auto", dtype="tf32")
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    assert "device   strict device, TF32\n" in head("gpu", dtype="tf32")
    with pytest.raises(ConfigError, match="tf32 has no effect with device = cpu"):
        distnewton.make_config({"run": {"dtype": "tf32"}})


def test_without_cupy_a_gpu_is_refused_with_the_install_command(no_cupy):
    with pytest.raises(ConfigError, match=r"cupy is not installed \(pip install 'distnewton\[gpu\]'\)"):
        devices.choose_device(Communicator(), "gpu", "float32")
    with pytest.raises(MissingExtraError, match=r"pip install 'distnewton\[gpu\]'"):
        gpu.cupy_library()


def test_environment_lists_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    (tmp_path / "d.csv").write_text("a,b,label\n" + "".join(f"{k},{k % 3},{k % 2}\n" for k in range(20)))
    common = ["train", f"--data.train={tmp_path / 'd.csv'}", "--run.iterations=1", "--run.threads=1"]
    assert main([*common, "--device", "gpu", "--run-dir", str(tmp_path / "r")]) == 0
    assert "device   strict device" in capsys.readouterr().out
    facts = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert (facts["devices"], facts["device_transport"]) == (["strict device"], "")


def test_models_are_used_on_a_device(tmp_path, monkeypatch, capsys, no_cupy):
    (tmp_path / "d.csv").write_text("a,b,label\n" + "".join(f"{k},{k % 3},{k % 2}\n" for k in range(20)))
    train = ["train", f"--data.train={tmp_path / 'd.csv'}", "--run.iterations=5", "--run.threads=1"]
    assert main([*train, "--run-dir", str(tmp_path / "r")]) == 0
    use = [str(tmp_path / "r"), str(tmp_path / "d.csv")]
    said = {}
    for command in ("predict", "evaluate"):
        capsys.readouterr()
        assert main([command, *use]) == 0
        said[command] = capsys.readouterr().out
        assert main([command, *use, "--device", "auto"]) == 0
        told = capsys.readouterr()
        assert told.out == said[command]
        assert "note: no GPU, the CPU computes: cupy is not installed" in told.err
        with pytest.raises(ConfigError, match=r"device = gpu, but cupy is not installed .*; use cpu or auto"):
            main([command, *use, "--device", "gpu"])
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    for command in ("predict", "evaluate"):
        assert main([command, *use, "--device", "gpu"]) == 0
        assert capsys.readouterr().out == said[command]


@pytest.mark.parametrize("text", ["import nothing_like_this", "raise ImportError('libcudart.so.12: no such file')"])
def test_a_cupy_that_cannot_be_imported_is_not_called_missing(tmp_path, monkeypatch, no_cupy, text):
    """Its own message fills a screen, and has the cause in the middle."""
    package = tmp_path / "cupy"
    package.mkdir()
    advice = "raise ImportError('read this:\\n' * 20) from error"
    (package / "__init__.py").write_text(f"try:\n    {text}\nexcept ImportError as error:\n    {advice}\n")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"device = gpu, but cupy is installed, but importing it fails: .*") as caught:
        devices.choose_device(Communicator(), "gpu", "float32")
    assert ("nothing_like_this" in str(caught.value)) != ("libcudart.so.12" in str(caught.value))
    assert "read this" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_benchmark_of_a_device(monkeypatch, capsys):
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    for where, name in (("cpu", "CPU"), ("gpu", "strict device")):
        if where == "gpu":
            # torch has no such device
            monkeypatch.setitem(sys.modules, "torch", None)
        benchmark(["--device", where, "--dtype", "float64", "--widths", "5-4-3", "--samples", "20", "--repeats", "2"])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"5-4-3, 20 samples, float64, {name}"
        assert "of the matrix products' " in lines[1]
        assert "iteration, block_diagonal, 10 CG steps: " in lines[-1]
        # where torch is installed it gives the same product
        assert all(float(line.rpartition(" ")[-1]) < 1e-12 for line in lines if "torch" in line)

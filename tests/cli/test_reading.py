"""What decides how data are read travels in the model: its file alone gives what its run folder gives."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from launched import call_together

import distnewton
from distnewton.errors import ConfigError, DataError

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 3))


def samples(n=60, seed=0):
    """Two features of three classes, an identifier that misleads, and a constant."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    X = 3 * np.array([[1, 0], [0, 1], [-1, -1]])[y] + 0.3 * rng.standard_normal((n, 2))
    return X, y, np.array(["cat", "dog", "newt"])[y]


def label_first(seed):
    X, _, names = samples(seed=seed)
    return "".join(f"{name},{a:.4f},{b:.4f}\n" for name, (a, b) in zip(names, X, strict=True))


def identified(seed):
    X, _, names = samples(seed=seed)
    rows = zip(names, X, strict=True)
    return "".join(f"{i + 1000 * seed},{a:.4f},{b:.4f},{name}\n" for i, (name, (a, b)) in enumerate(rows))


def zero_based(seed):
    X, y, _ = samples(seed=seed)
    return "".join(f"{k} 0:{a:.4f} 1:{b:.4f}\n" for k, (a, b) in zip(y, X, strict=True))


def described(seed):
    X, _, names = samples(seed=seed)
    rows = "".join(f"{a:.4f};{b:.4f};{name}\n" for name, (a, b) in zip(names, X, strict=True))
    return "# written by hand\n" + rows + "9999;0.5;cat\n"


CASES = {
    "label_column": (label_first, {"label_column": 0}),
    "ignore_columns": (identified, {"ignore_columns": [0]}),
    "zero_based": (zero_based, {"zero_based": True}),
    "comment, header and missing values": (
        described, {"comment": "#", "header": False, "missing_values": ["9999"], "missing": "median"}
    ),
}  # fmt: skip


def write(world, folder, name, text):
    if world.rank == 0:
        (folder / name).write_text(text)
    world.barrier()
    return str(folder / name)


def trained(world, folder, text, data):
    """A run folder, and its model file alone elsewhere."""
    tree = {"data": {"train": write(world, folder, "train", text(0)), "scale": "standard", **data}}
    tree |= {"network": {"layers": ["auto", 8, "auto"]}, "method": {"direction": "gauss_newton"}}
    tree |= {"run": {"iterations": 15, "threads": 1, "directory": str(folder / "run")}}
    settings = [f"--set={s}.{key}={json.dumps(value)}" for s, table in tree.items() for key, value in table.items()]
    done = call_together(world, "train", *settings)
    assert done.returncode == 0, done.stderr
    if world.rank == 0:
        (folder / "elsewhere").mkdir()
        shutil.copy(folder / "run" / "model.safetensors", folder / "elsewhere" / "m")
    world.barrier()
    return str(folder / "run"), str(folder / "run" / "model.safetensors"), str(folder / "elsewhere" / "m")


@pytest.mark.parametrize("case", CASES)
def test_the_file_alone_gives_what_the_folder_gives(world, folder, case):
    text, data = CASES[case]
    models, test = trained(world, folder, text, data), write(world, folder, "test", text(1))
    found = [call_together(world, "evaluate", model, test) for model in models]
    assert found[0].returncode == 0, found[0].stderr
    assert len({done.stdout for done in found}) == 1
    assert len({done.stderr for done in found}) == 1
    if world.rank == 0:
        assert float(found[0].stdout.split("accuracy ")[1].split()[0]) > 0.95
    predicted = [call_together(world, "predict", model, test).stdout for model in models]
    assert len(set(predicted)) == 1
    # and in Python, which knows the file alone
    lines = distnewton.load_model(models[-1], world).predict(test)
    if world.rank == 0:
        assert lines == predicted[0].splitlines()


def test_settings_of_the_command_line_win_with_a_note(world, folder):
    _, _, alone = trained(world, folder, label_first, {"label_column": 0})
    X, _, names = samples(seed=1)
    rows = [f"{a:.4f},{b:.4f},{name}" for name, (a, b) in zip(names, X, strict=True)]
    test = write(world, folder, "last", "\n".join(rows) + "\n")
    assert call_together(world, "evaluate", alone, test).returncode == 65
    for flag in ("--set=data.label_column=2", "--data.label_column=2"):
        done = call_together(world, "evaluate", alone, test, flag)
        assert done.returncode == 0, done.stderr
        if world.rank == 0:
            assert "note: data.label_column = 2; the model was trained with 0\n" in done.stderr
            assert float(done.stdout.split("accuracy ")[1].split()[0]) > 0.95
    done = call_together(world, "predict", alone, test, "--set=run.iterations=3")
    assert done.returncode == 78
    if world.rank == 0:
        assert "--set run.iterations=3: data are read by data.format, data.label_column" in done.stderr


def test_the_folder_of_the_data_and_the_device_are_settings(world, folder):
    model, *_ = trained(world, folder, label_first, {"label_column": 0})
    write(world, folder, "elsewhere.csv", label_first(1))
    texts = []
    by_flag = f"--data-dir={folder}"
    for flags in (["--data-dir", str(folder)], [f"--set=data.directory={folder}"], ["--device=cpu", by_flag]):
        done = call_together(world, "evaluate", model, "elsewhere.csv", *flags)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
        assert "note" not in done.stderr
    assert len(set(texts)) == 1
    assert call_together(world, "evaluate", model, "elsewhere.csv").returncode == 66
    refused = call_together(world, "evaluate", model, "elsewhere.csv", by_flag, "--device=cuda")
    assert refused.returncode == 78
    if world.rank == 0:
        assert "run.device: input should be 'cpu', 'gpu' or 'auto', got 'cuda'" in refused.stderr


def test_another_label_column_of_a_model_with_names_is_given_by_name(world, folder):
    _, _, alone = trained(world, folder, lambda seed: "kind,a,b\n" + label_first(seed), {"label_column": "kind"})
    test = write(world, folder, "test", "a,b,truth\n1,0,cat\n9,0,cat\n")
    assert call_together(world, "evaluate", alone, test).returncode == 65
    done = call_together(world, "evaluate", alone, test, "--set=data.label_column=truth")
    assert done.returncode == 0, done.stderr
    done = call_together(world, "evaluate", alone, test, "--set=data.label_column=2")
    assert done.returncode == 78
    if world.rank == 0:
        assert "the model takes columns by name; name the column" in done.stderr


def test_a_model_of_an_older_version_is_read_as_the_configuration_beside_it_says(world, folder):
    from models.test_model import read_file
    from models.test_model_checksums import rewritten

    models, test = trained(world, folder, label_first, {"label_column": 0}), write(world, folder, "t", label_first(1))
    if world.rank == 0:
        for model in models[1:]:
            tensors, header = read_file(model)
            gone = "reading", "tensor_sums", "header_crc32"
            old = {key: value for key, value in header.items() if key not in gone}
            rewritten(model, tensors, old | {"format_version": 1})
    world.barrier()
    found = [call_together(world, "evaluate", model, test) for model in models]
    assert [done.returncode for done in found] == [0, 0, 65]
    if world.rank == 0:
        assert found[0].stdout == found[1].stdout
        assert "of an older version, does not say how its data were read" in found[2].stderr


def test_default_settings_stay_readable_for_older_versions(world, folder):
    from models.test_model import read_file

    _, model, _ = trained(world, folder, label_first, {"label_column": 0})
    header = read_file(model)[1]
    assert (header["format_version"], header["reading"]) == (4, {"label_column": 0})
    plain, _, _ = samples()
    config = distnewton.make_config({"run": {"iterations": 0, "threads": 1}})
    distnewton.train(config, world, train_data=(plain, samples()[1])).model.save(folder / "plain")
    header = read_file(folder / "plain")[1]
    assert (header["format_version"], header["reading"]) == (1, {})


def test_python_trains_and_predicts_on_paths_by_the_settings(world, folder):
    train, test = write(world, folder, "a", label_first(0)), write(world, folder, "b", label_first(1))
    config = distnewton.make_config({
        "data": {"label_column": 0}, "network": {"layers": ["auto", 8, "auto"]},
        "method": {"direction": "gauss_newton"}, "run": {"iterations": 10, "threads": 1},
    })  # fmt: skip
    model = distnewton.train(config, world, train_data=train).model
    assert model.evaluate(test)["accuracy"] > 0.9
    with pytest.raises((DataError, ConfigError)):
        model.evaluate(write(world, folder, "c", "1.0,2.0,3.0,cat\n2.0,3.0,1.0,dog\n"))

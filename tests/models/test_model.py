"""Model files: equal to torch.nn.Sequential's, loaded on any number of ranks, refused when damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

import distnewton
from distnewton.errors import CreateError, DataError, DistNewtonError, MissingInputError, WriteError
from distnewton.models.header import FORMAT_VERSION

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 4))

WIDTHS = (6, 5, 4, 3)
NAMES = np.array(["red", "green", "blue"])


def problem(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    return 3 * rng.standard_normal((3, 6))[y] + rng.standard_normal((n, 6)) + 1, y


def trained(world, labels, *, scale="none", loss="cross_entropy", dtype="float64", activation="tanh", iterations=5):
    config = distnewton.make_config({
        "data": {"scale": scale},
        "network": {"layers": ["auto", 5, 4, "auto"], "loss": loss, "activation": activation},
        "run": {"iterations": iterations, "dtype": dtype, "deterministic": True, "threads": 1},
    })
    return distnewton.train(config, world, train_data=distnewton.ArraySource(problem()[0], labels)).model


def read_file(path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(path, framework="numpy") as file:
        return load_file(path), json.loads(file.metadata()["distnewton"])


def without_checksums(header):
    """A header as older versions wrote it: one that is changed and written by hand."""
    return {key: value for key, value in header.items() if key not in ("tensor_sums", "header_crc32")}


def plain_outputs(path, X):
    """Outputs computed from the file alone, as torch.nn.Sequential would."""
    tensors, header = read_file(path)
    scaling = header["scaling"]
    if scaling["kind"] in ("minmax", "standard"):
        X = (X - scaling["offset"]) * scaling["factor"]
    elif scaling["kind"].endswith("unit_rows"):
        X = np.log1p(X) if scaling["kind"].startswith("log1p") else X
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
    for k in (0, 2, 4):
        X = X @ tensors[f"{k}.weight"].T + tensors[f"{k}.bias"]
        X = np.tanh(X) if k < 4 else X
    return X


@pytest.mark.parametrize("kind", ["none", "minmax", "standard", "unit_rows"])
def test_models_give_the_same_outputs_on_any_number_of_ranks(world, folder, kind):
    _, y = problem()
    model = trained(world, y, scale=kind)
    path = folder / "model.safetensors"
    model.save(path)
    new, _ = problem(40, seed=1)
    expected = plain_outputs(path, new)
    source = distnewton.ArraySource(new, np.zeros(40))
    for other in (model, distnewton.load_model(path), distnewton.load_model(folder, world)):
        outputs, _, _ = other.outputs(source)
        good = bool(np.allclose(outputs, expected, rtol=1e-10, atol=1e-12))
        assert not world.any(not good)
        assert other.architecture == model.architecture


def test_file_has_the_keys_and_shapes_of_a_sequential(world, folder):
    X, y = problem()
    trained(world, y, scale="standard", dtype="float32").save(folder / "m")
    tensors, header = read_file(folder / "m")
    shapes = {"0.weight": (5, 6), "0.bias": (5,), "2.weight": (4, 5), "2.bias": (4,)}
    shapes |= {"4.weight": (3, 4), "4.bias": (3,)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}
    # networks of this kind stay readable for older versions
    assert header["format_version"] == 1
    assert tuple(header["widths"]) == WIDTHS
    np.testing.assert_allclose(header["scaling"]["offset"], X.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(header["scaling"]["factor"], 1 / X.std(axis=0), rtol=1e-5)
    world.barrier()
    assert sorted(path.name for path in folder.iterdir()) == ["m"]


def test_torch_takes_the_file_as_it_is(world, folder):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    X, y = problem()
    model = trained(world, y, dtype="float32", activation="relu")
    model.save(folder / "m")
    layers = [torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)]
    twin = torch.nn.Sequential(*layers)
    twin.load_state_dict(load_file(folder / "m"))
    with torch.no_grad():
        expected = twin(torch.from_numpy(X.astype(np.float32))).numpy()
    outputs, _, _ = model.outputs(distnewton.ArraySource(X, y))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "names", [NAMES, np.array([10, -3, 7]), np.array([0.5, 2.0, 1e6])], ids=["text", "int", "float"]
)
def test_predictions_are_the_users_labels_in_input_order(world, folder, names):
    X, y = problem()
    model = trained(world, names[y], scale="standard", iterations=25)
    model.save(folder / "m")
    order = np.random.default_rng(5).permutation(len(y))
    source = distnewton.ArraySource(X[order], names[y][order])
    written = {"0.5": "0.5", "2.0": "2", "1000000.0": "1000000"}
    truth = [written.get(str(label), str(label)) for label in names[y][order].tolist()]
    for other in (model, distnewton.load_model(folder / "m"), distnewton.load_model(folder / "m", world)):
        predicted = other.predict(lambda: source)
        same = predicted == world.broadcast_json(predicted)
        assert not world.any(not same)
        share = np.mean([a == b for a, b in zip(predicted, truth, strict=True)])
        assert share > 0.9
        assert other.evaluate(source)["accuracy"] == pytest.approx(share)


def test_labels_that_the_model_does_not_know_count_as_wrong(world):
    X, y = problem()
    model = trained(world, NAMES[y])
    known = model.evaluate(distnewton.ArraySource(X[:4], NAMES[y][:4]))
    labels = [*NAMES[y][:4], "pink", "pink", "teal", "pink"]
    mixed = model.evaluate(distnewton.ArraySource(np.vstack([X[:4]] * 2), labels))
    assert mixed["unseen_labels"] == {"pink": 3, "teal": 1}
    assert mixed["n_samples"] == 8
    assert mixed["accuracy"] == pytest.approx(known["accuracy"] / 2)


def test_regression_predicts_numbers(world, folder):
    X, _ = problem()
    targets = np.column_stack([X[:, 0], -X[:, 1]])
    model = trained(world, targets, loss="squared")
    model.save(folder / "m")
    lines = distnewton.load_model(folder / "m", world).predict(distnewton.ArraySource(X, targets))
    outputs, _, _ = model.outputs(distnewton.ArraySource(X, targets))
    np.testing.assert_allclose([[float(v) for v in line.split()] for line in lines], outputs, rtol=1e-7)
    with pytest.raises(DataError, match="has 1 targets per sample, but the model has 2 outputs") as caught:
        model.evaluate(distnewton.ArraySource(X, targets[:, 0], name="one"))
    assert caught.value.collective


def outcome(work):
    try:
        work()
    except DistNewtonError as error:
        return error
    return None


def check_refusal(world, work, kind, message):
    """All ranks must raise the same error, agreed."""
    error = outcome(work)
    good = type(error) is kind and message in str(error) and error.collective
    assert not world.any(not good), repr(error)


def edited(**changes):
    return lambda tensors, header: (tensors, json.dumps({k: v for k, v in (header | changes).items() if v != "gone"}))


def without(name):
    return lambda tensors, header: ({k: v for k, v in tensors.items() if k != name}, json.dumps(header))


def reshaped(name, shape):
    return lambda tensors, header: (tensors | {name: np.zeros(shape)}, json.dumps(header))


DAMAGES = [
    (edited(format_version=FORMAT_VERSION + 1), f"has format {FORMAT_VERSION + 1}, this version reads up to"),
    (edited(format_version="gone"), "damaged header: format_version: field required"),
    (edited(widths="gone"), "damaged header: expected widths, or input and layers"),
    (edited(activation="gelu"), "activation: unknown activation 'gelu'"),
    (lambda tensors, header: (tensors, "{"), "damaged header"),
    (without("2.weight"), "does not match its header"),
    (reshaped("0.weight", (2, 2)), "does not match its header"),
    (reshaped("4.weight", (30, 40)), "does not match its header"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message[:28] for _, message in DAMAGES])
def test_wrong_headers_and_weights_are_refused(world, folder, damage, message):
    trained(world, problem()[1], iterations=0).save(folder / "m")
    if world.rank == 0:
        from safetensors.numpy import save_file

        tensors, header = read_file(folder / "m")
        tensors, text = damage(tensors, without_checksums(header))
        save_file(tensors, folder / "bad", metadata={"distnewton": text})
    world.barrier()
    check_refusal(world, lambda: distnewton.load_model(folder / "bad", world), DataError, message)


FOREIGN = {
    "empty": lambda whole: b"",
    "pickle": lambda whole: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94.",
    "text": lambda whole: b"network 1 2 3\n" * 40,
    "header only": lambda whole: whole[:200],
    "truncated": lambda whole: whole[:-5],
    "with a tail": lambda whole: whole + b"xx",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_damaged_and_foreign_files_are_refused(world, folder, name):
    trained(world, problem()[1], iterations=0).save(folder / "m")
    if world.rank == 0:
        (folder / "bad").write_bytes(FOREIGN[name]((folder / "m").read_bytes()))
    world.barrier()
    message = f"{folder / 'bad'} is not a readable safetensors file"
    check_refusal(world, lambda: distnewton.load_model(folder / "bad", world), DataError, message)


def test_missing_and_foreign_models_are_told_apart(world, folder):
    if world.rank == 0:
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(2)}, folder / "foreign")
    world.barrier()
    load = distnewton.load_model
    check_refusal(world, lambda: load(folder / "none", world), MissingInputError, "there is no model file")
    check_refusal(world, lambda: load(folder, world), MissingInputError, "model.safetensors; train first")
    check_refusal(world, lambda: load(folder / "foreign", world), DataError, "not a model that distnewton wrote")


def test_other_data_and_unwritable_places_are_refused(world, folder):
    X, y = problem()
    model = trained(world, y, iterations=0)
    narrow = distnewton.ArraySource(X[:, :4], y, name="narrow")
    check_refusal(world, lambda: model.predict(narrow), DataError, "narrow has 4 features, but the model has 6")
    check_refusal(world, lambda: model.save(folder / "no" / "m"), CreateError, "cannot write")
    if world.rank == 0:
        (folder / "taken").mkdir()
    world.barrier()
    check_refusal(world, lambda: model.save(folder / "taken"), WriteError, "cannot write")
    world.barrier()
    assert [path.name for path in folder.iterdir()] == ["taken"]

"""Hostile headers of model files: whatever a value is replaced by, the model is usable or refused by name."""

from __future__ import annotations

import copy
import json
import math
import os
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from models.test_image_models import LAYERS, images
from models.test_model import problem, read_file
from models.test_model_checksums import rewritten
from scipy import sparse

import distnewton
from distnewton.errors import DataError, DistNewtonError
from distnewton.models.model_file import read_header

DELETED = object()
HOSTILE = [
    None, True, -1, 0, 10**12, 10**400, math.nan, math.inf, 1e308, "", "evil", "\x1b[31m", [], [[]], {},
    {"type": []}, [None, [1]], json.loads("[" * 90 + "]" * 90), DELETED,
]  # fmt: skip
"""Values that take the place of each value."""
N_HOSTILE = int(os.environ.get("DISTNEWTON_HEADERS", "120"))
"""By kind; by hand all: ``DISTNEWTON_HEADERS=9999 python -m pytest tests/models/test_model_headers.py``."""


def table(folder):
    rng = np.random.default_rng(4)
    lines = [f"{rng.normal():.3f},{rng.choice(['red', 'blue'])},{'' if i == 3 else i},{i % 3}" for i in range(30)]
    (folder / "table.csv").write_text("\n".join(["size,colour,age,label", *lines]) + "\n")
    return str(folder / "table.csv")


KINDS = {
    "dense": lambda folder: ((problem()[0], np.array(["a", "b", "c"])[problem()[1]]), {}),
    "image": lambda folder: (images(), {"network": {"layers": LAYERS, "input": [2, 9, 8]}}),
    "regression": lambda folder: (
        (problem()[0], 5 * problem()[0][:, :2]), {"network": {"loss": "squared"}, "method": {"direction": "auto"}}
    ),
    "encoded": lambda folder: (
        table(folder), {"data": {"label_column": -1, "comment": "#", "ignore_columns": [0], "missing_values": [""]}}
    ),
    "sparse": lambda folder: (
        (sparse.csr_array(np.abs(problem()[0]) * (problem()[0] > 3)), problem()[1] == 1),
        {"data": {"scale": "log1p_unit_rows"}, "network": {"loss": "logistic"}},
    ),
}  # fmt: skip


def made(kind, folder, world=None):
    """A model file of a kind, and data for it."""
    data, tree = KINDS[kind](folder)
    run = {"iterations": 0, "threads": 1}
    given = {"data": {"scale": "standard"}, "network": {"layers": ["auto", 3, "auto"]}, **tree, "run": run}
    if isinstance(data, str):
        given["data"] = {**given["data"], "train": data}
        distnewton.train(distnewton.make_config(given), world).model.save(folder / "m")
        return folder / "m", data
    X, y = data
    source = distnewton.ArraySource(X, y)
    distnewton.train(distnewton.make_config(given), world, train_data=source).model.save(folder / "m")
    return folder / "m", X


def sealed(path, tensors, header):
    """Write a model file as a forger would: with the checksums of what is in it."""
    text = json.dumps({key: value for key, value in header.items() if key != "header_crc32"}).removesuffix("}")
    return rewritten(path, tensors, f'{text}, "header_crc32": {zlib.crc32(text.encode())}}}')


def places(tree, at=()):
    """Paths of all values of a tree; of long lists the first and the last."""
    if at:
        yield at
    if isinstance(tree, dict):
        for key in tree:
            yield from places(tree[key], (*at, key))
    elif isinstance(tree, list) and tree:
        for i in sorted({0, len(tree) - 1}):
            yield from places(tree[i], (*at, i))


def replaced(tree, at, value):
    tree = copy.deepcopy(tree)
    part = tree
    for key in at[:-1]:
        part = part[key]
    if value is DELETED:
        del part[at[-1]]
    else:
        part[at[-1]] = value
    return tree


def outcome(path, data):
    """The refusal, or None where the model predicts, or asks for data of other columns."""
    try:
        model = distnewton.load_model(path)
    except DataError as error:
        return error
    with warnings.catch_warnings(), suppress(DistNewtonError):
        # numbers near the largest overflow, and other categories are unknown
        warnings.simplefilter("ignore")
        assert len(model.predict(data)) > 0
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_every_hostile_value_is_refused_by_name_or_usable(tmp_path, kind):
    path, data = made(kind, tmp_path)
    tensors, header = read_file(path)
    assert outcome(sealed(tmp_path / "same", tensors, header), data) is None
    cases = [(at, value) for at in places(header) if at != ("header_crc32",) for value in HOSTILE]
    chosen = np.random.default_rng(1).permutation(len(cases))[:N_HOSTILE]
    usable = []
    for at, value in (cases[i] for i in chosen):
        error = outcome(sealed(tmp_path / "bad", tensors, replaced(header, at, value)), data)
        if error is None:
            usable.append((at, value))
        else:
            assert str(error).startswith(str(tmp_path / "bad")), error
            assert str(error).isprintable(), error
            assert len(str(error)) < 600
    # what is left: other names, labels and numbers
    assert len(usable) < 0.25 * len(chosen), usable


UNKNOWN = [
    (("scaling", "kind"), "evil", "scaling.kind: unknown scaling 'evil'"),
    (("scaling", "offset", 0), math.nan, "scaling.offset.0: input should be a finite number"),
    (("scaling", "n_columns"), 10**12, "scaling: has 1000000000000 columns, but the network has 6 features"),
    (("widths", 1), 10**9, "0.bias is F32 [3], expected F32 [1000000000]"),
    (("widths", 1), -3, "widths.1: input should be greater than or equal to 1"),
    (("task",), "regression", "classes: 3 with 3 outputs do not fit task = regression"),
    (("classes", "classes", 0), "b", "classes: 'b' appears twice"),
    (("secret",), 1, "secret: unknown key"),
    (("tensor_sums",), {}, "tensor_sums does not fit its weights"),
    (("dtype",), "float64", "0.bias is F32 [3], expected F64 [3]"),
]


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize(("at", "value", "message"), UNKNOWN, ids=[message for *_, message in UNKNOWN])
def test_all_ranks_refuse_with_the_place(world, folder, at, value, message):
    path, _ = made("dense", folder, world)
    if world.rank == 0:
        tensors, header = read_file(path)
        sealed(folder / "bad", tensors, replaced({"secret": 0, **header} if at == ("secret",) else header, at, value))
    world.barrier()
    for use in (lambda: distnewton.load_model(folder / "bad", world), lambda: start(folder, world)):
        with pytest.raises(DataError) as caught:
            use()
        good = message in str(caught.value) and caught.value.collective
        assert not world.any(not good), caught.value


def start(folder, world):
    """Begin a run at the weights of a bad file."""
    config = distnewton.make_config({"network": {"start": str(folder / "bad")}, "run": {"iterations": 0}})
    distnewton.train(config, world, train_data=distnewton.ArraySource(*problem()))


@pytest.mark.parametrize("text", ["[]", "5", "null", "{}", "[" * 10**5, '{"format_version": 1e400}', '"' + "x" * 10**6])
def test_headers_that_are_no_table_are_refused(tmp_path, text):
    from safetensors.numpy import save_file

    save_file({"0.weight": np.zeros((2, 2))}, tmp_path / "bad", metadata={"distnewton": text})
    with pytest.raises(DataError, match="damaged header") as caught:
        read_header(tmp_path / "bad")
    assert len(str(caught.value)) < 600

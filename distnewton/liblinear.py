"""Linear models as text files in LIBLINEAR's format, which LIBLINEAR's ``predict`` and its bindings read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distnewton.backend import Array
from distnewton.errors import DataError
from distnewton.models.loading import load_serial_model
from distnewton.models.model import Model
from distnewton.outputs import whole

__all__ = ["save_liblinear", "to_liblinear"]


def to_liblinear(model: Model | str | Path) -> str:
    """Convert a network without hidden layers to the text of a LIBLINEAR model file.

    Parameters
    ----------
    model : Model or path
        A model in memory, a model file or a run folder.

    Returns
    -------
    str
        Weights of the raw features, feature 1 first, followed by those of LIBLINEAR's bias feature, whose value is 1.
        The stored scaling is folded into both. ``solver_type`` tells readers how to use the weights: ``L2R_LR`` for two
        classes with probabilities, ``MCSVM_CS`` for several classes (the largest value wins), ``L2R_L2LOSS_SVC`` for
        two classes with the squared loss, ``L2R_L2LOSS_SVR`` for regression.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    DataError
        If LIBLINEAR's format cannot hold the model: hidden layers, labels that are not whole numbers, several outputs
        per sample, or row scaling.

    Notes
    -----
    Collective over the grid of a model in memory.
    """
    model = load_serial_model(model)
    problem = _problem(model)
    if problem:
        raise DataError(f"LIBLINEAR's format is for linear models: {problem}", collective=True)
    return "".join(f"{line}\n" for line in _lines(model))


def save_liblinear(model: Model | str | Path, path: str | Path) -> None:
    """Write the text of :func:`to_liblinear` into a file; raises CreateError or WriteError if that fails."""
    text = to_liblinear(model)
    with whole(Path(path)) as part:
        part.write_text(text, encoding="ascii")


def _problem(model: Model) -> str:
    """Reason why LIBLINEAR's format cannot hold a model; empty if it can."""
    shape, task, scaling = model.architecture.shape, model.architecture.task, model.scaling
    if len(shape.layers) > 1 or shape.layers[0].kernel is not None:
        return f"this one has the layers {shape}; distnewton export FILE.onnx takes any model"
    if task.name == "multilabel":
        return "this one gives a sample any number of labels"
    if task.classes is None and shape.widths[-1] > 1:
        return f"this one predicts {shape.widths[-1]} numbers per sample"
    if scaling.rule.scales_rows:
        return f"this one divides samples by their norms (data.scale = {scaling.kind}), which the format cannot express"
    others = [label for label in (task.classes.classes if task.classes else ()) if not isinstance(label, int)]
    return f"its labels are whole numbers, but this one has {others[0]!r}" if others else ""


def _lines(model: Model) -> Iterator[str]:
    """Yield the lines of the file."""
    W, b = _raw(model)
    task = model.architecture.task
    classes = list(task.classes.classes) if task.classes else []
    if task.name == "binary":
        # in LIBLINEAR a positive value means the first class, here the second
        classes = classes[::-1]
    elif len(classes) == 2:
        W, b = W[:1] - W[1:], b[:1] - b[1:]
    yield f"solver_type {_solver(len(classes), model.architecture.link)}"
    yield f"nr_class {len(classes) or 2}"
    if classes:
        yield f"label {' '.join(map(str, classes))}"
    yield f"nr_feature {W.shape[1]}"
    yield "bias 1"
    yield "w"
    for row in np.vstack([W.T, b]):
        # LIBLINEAR itself ends each line with a space; adding 0.0 turns -0.0 into 0.0
        yield "".join(f"{value:.17g} " for value in row + 0.0)


def _solver(n_classes: int, link: str) -> str:
    """LIBLINEAR solver whose models have the same form."""
    if not n_classes:
        return "L2R_L2LOSS_SVR"
    return "MCSVM_CS" if n_classes > 2 else "L2R_LR" if link else "L2R_L2LOSS_SVC"


def _raw(model: Model) -> tuple[Array, Array]:
    """Weights and biases that apply to raw features, in float64."""
    tensors = model.exported_weights()
    W, b = (tensors[f"0.{name}"].astype(np.float64) for name in ("weight", "bias"))
    W = W * model.scaling.factor
    return W, b - W @ model.scaling.offset

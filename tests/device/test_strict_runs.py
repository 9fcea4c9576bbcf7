"""Whole runs on a device that refuses every implicit transfer: numpy's numbers, and what crosses is counted.

Where there is a GPU the runs are made on it, too.
"""

from __future__ import annotations

import numpy as np
import pytest
from planted import plant
from scipy.sparse import csr_array
from strict_device import CROSSINGS, StrictGpus

import distnewton
from distnewton.backend import on_device
from distnewton.backend.gpu import count_gpus
from distnewton.errors import ConfigError, NumericalError
from distnewton.launch import devices
from distnewton.parallel.collectives import Communicator

pytestmark = pytest.mark.mpi(min_size=1, sizes=(2,))

IMAGE = {
    "input": [1, 4, 4],
    "layers": [
        {"type": "conv", "channels": 3, "kernel": 2, "padding": 1},
        {"type": "max_pool", "size": 2, "stride": 1},
        {"type": "conv", "channels": 8, "kernel": 2},
        {"type": "avg_pool", "size": 2, "stride": 1},
        {"type": "dense", "width": 7},
        {"type": "dense", "width": "auto"},
    ],
}
NETWORKS = {"dense": {"layers": ["auto", 8, 7, "auto"]}, "sparse": {"layers": ["auto", 8, 7, "auto"]}, "images": IMAGE}
SMALL = {"C": 50.0, "subsample": 0.3, "subsample_min": 1}
RATE = {"C": 50.0, "batch": 16, "learning_rate": 0.05}
METHODS = {
    "block_diagonal": SMALL,
    "gauss_newton": SMALL,
    "gauss_newton, diagonal": SMALL | {"preconditioner": "diagonal"},
    "gauss_newton, kfac": SMALL | {"preconditioner": "kfac"},
    "gauss_newton, mini_block_fisher": SMALL | {"preconditioner": "mini_block_fisher", "mini_blocks": "neuron"},
    "gauss_newton, sketch": SMALL | {"sketch": 2},
    "gauss_newton, recomputed": SMALL | {"jacobian": "recomputed"},
    "dual": SMALL,
    "block_dual": SMALL,
    "sgn": {"C": 50.0, "batch": 16},
    "kfac": RATE,
    "mini_block_fisher": RATE,
    "grouped_newton": RATE | {"learning_rate": 1.0, "rate_period": 2},
    "sgd": RATE | {"momentum": 0.5},
    "adam": RATE,
}


@pytest.fixture(params=["strict", "cupy"])
def device(request, monkeypatch, world):
    """A device without a GPU, and the first GPU where there is one."""
    if request.param == "strict":
        monkeypatch.setattr(devices, "GPUS", StrictGpus())
        return
    missing = [text for text in world.allgather_json(count_gpus()[1]) if text]
    if missing:
        pytest.skip(missing[0])


@pytest.fixture
def strict(monkeypatch, world):
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    CROSSINGS.take()
    CROSSINGS.phase = lambda: world.ledger.current
    yield
    CROSSINGS.phase = None


class Watch:
    """What has crossed up to each record."""

    def __init__(self):
        self.crossed = []

    def start(self, summary):
        self.summary = summary

    def iteration(self, record):
        self.crossed.append(CROSSINGS.take())


def data(kind, n=50, n_features=16, loss="cross_entropy"):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, n_features))
    if kind == "sparse":
        X = csr_array(X * (rng.random(X.shape) < 0.15))
    labels = {"cross_entropy": rng.integers(3, size=n), "logistic": rng.integers(2, size=n)}
    return distnewton.ArraySource(X, labels.get(loss, rng.standard_normal((n, 2))))


def trained(world, device, kind, method, *, iterations=2, data_options=None, **tables):
    """A run, and what has crossed in it."""
    watch = Watch()
    config = distnewton.make_config({
        "network": NETWORKS[kind] | tables.get("network", {}),
        "method": method,
        "partition": tables.get("partition", {}),
        "data": tables.get("data", {}),
        "run": {
            "iterations": iterations, "dtype": "float64", "deterministic": True, "threads": 1, "device": device,
            **tables.get("run", {}),
        },
    })  # fmt: skip
    sources = data(kind, **(data_options or {}))
    options = tables.get("options", {})
    result = distnewton.train(
        config, world, train_data=sources, test_data=data(kind, **(data_options or {})), observers=[watch], **options
    )
    return result, watch


def check_equal(world, plain, strict):
    """The same run up to rounding."""
    same = len(plain.history) == len(strict.history)
    for a, b in zip(plain.history, strict.history, strict=True):
        same &= a.objective == pytest.approx(b.objective, rel=1e-9)
        same &= a.step_size == pytest.approx(b.step_size)
        same &= a.train == pytest.approx(b.train, rel=1e-9)
        same &= a.test == pytest.approx(b.test, rel=1e-9)
    weights, others = plain.model.weights(), strict.model.weights()
    if weights is not None:
        same &= all(np.allclose(weights[name], others[name], rtol=1e-8, atol=1e-10) for name in weights)
    moved = plain.history[0].objective != plain.history[-1].objective
    assert not world.any(not (same and moved))


DENSE_ALONE = ("gauss_newton, sketch", "block_dual", "sgd", "adam")
"""What does nothing of its own with features or images."""


ON_RANKS = {
    ("block_diagonal", "dense"), ("gauss_newton", "dense"), ("gauss_newton", "sparse"), ("gauss_newton", "images"),
    ("gauss_newton, recomputed", "dense"), ("dual", "dense"), ("kfac", "dense"), ("grouped_newton", "dense"),
    ("sgn", "sparse"),
}  # fmt: skip
"""What is also run on several ranks: all kinds of messages."""
RUNS = [(name, kind) for name in METHODS for kind in NETWORKS if kind == "dense" or name not in DENSE_ALONE]


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_every_direction_gives_the_numbers_of_the_cpu(world, device, name, kind):
    if world.size > 1 and (name, kind) not in ON_RANKS:
        return  # their messages are those of others
    method = METHODS[name] | {"direction": name.partition(",")[0]}
    plain, _ = trained(world, "cpu", kind, method)
    found, _ = trained(world, "gpu", kind, method)
    check_equal(world, plain, found)
    assert plain.summary.machine.devices == ["CPU"] * world.size
    assert "CPU" not in found.summary.machine.devices
    assert bool(found.summary.machine.device_transport) == (world.size > 1)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("direction", ["gauss_newton", "dual", "kfac"])
def test_other_losses_and_weights_of_samples(world, device, loss, direction):
    if world.size > 2:
        return
    method = (RATE if direction == "kfac" else SMALL) | {"direction": direction}
    tables = {"network": {"loss": loss}, "data_options": {"loss": loss}}
    tables |= {"data": {"class_weights": "balanced"}} if loss == "logistic" else {}
    plain, _ = trained(world, "cpu", "dense", method, **tables)
    found, _ = trained(world, "gpu", "dense", method, **tables)
    check_equal(world, plain, found)


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "softplus", "identity"])
@pytest.mark.parametrize("name", ["gauss_newton", "grouped_newton"])
def test_other_activations(world, device, name, activation):
    if world.size > 1:
        return
    tables = {"network": {"activation": activation}}
    plain, _ = trained(world, "cpu", "dense", METHODS[name] | {"direction": name}, **tables)
    found, _ = trained(world, "gpu", "dense", METHODS[name] | {"direction": name}, **tables)
    check_equal(world, plain, found)


@pytest.mark.parametrize(
    ("direction", "kind"),
    [("block_diagonal", "dense"), ("gauss_newton", "dense"), ("dual", "dense"), ("dual", "sparse")],
)
def test_replicas_and_passes_in_pieces(world, device, direction, kind):
    replicas = 2 if world.size % 2 == 0 else 1
    tables = {"partition": {"replicas": replicas}, "run": {"overlap": 3}}
    plain, _ = trained(world, "cpu", kind, SMALL | {"direction": direction}, **tables)
    found, _ = trained(world, "gpu", kind, SMALL | {"direction": direction}, **tables)
    check_equal(world, plain, found)


@pytest.mark.parametrize("name", ["block_diagonal", "gauss_newton, mini_block_fisher"])
def test_a_run_goes_on_from_its_checkpoint_on_either_device(world, device, folder, name):
    method = METHODS[name] | {"direction": name.partition(",")[0]}
    if world.size > 1 and name == "block_diagonal":
        return
    whole, _ = trained(world, "cpu", "dense", method, iterations=4)
    for first, second in (("gpu", "gpu"), ("cpu", "gpu"), ("gpu", "cpu"))[: 3 if world.size == 1 else 1]:
        options = {"checkpoints": folder / f"{first}-{second}"}
        trained(world, first, "dense", method, iterations=2, options=options)
        found, _ = trained(world, second, "dense", method, iterations=4, options=options | {"resume": True})
        same = found.last.objective == pytest.approx(whole.last.objective, rel=1e-9)
        assert not world.any(not (same and found.last.iteration == 4))


def test_the_best_model_and_a_warm_start(world, device, folder):
    def run(device, start=None):
        options = {"start": start} if start else {}
        tables = {"data": {"validation_fraction": 0.3, "scale": "standard"}, "options": options}
        return trained(world, device, "dense", SMALL | {"direction": "gauss_newton"}, **tables)[0]

    plain, found = run("cpu"), run("gpu")
    check_equal(world, plain, found)
    assert found.best.metrics == plain.best.metrics
    found.model.save(folder / "model.safetensors")
    check_equal(world, run("cpu", plain.model), run("gpu", found.model))
    check_equal(world, run("cpu", plain.model), run("gpu", folder / "model.safetensors"))
    held, same = data("dense"), True
    # ranks that have not trained: how sums of device arrays travel is not known to them yet
    fresh = Communicator(world.mpi).duplicate() if world.size > 1 else world
    for where in ("cpu", "gpu"):
        read = distnewton.load_model(folder / "model.safetensors", fresh, where)
        same &= on_device(read.params) == (where == "gpu")
        given, wanted = (model.evaluate(held) for model in (read, found.model))
        same &= given.pop("unseen_labels") == wanted.pop("unseen_labels")
        for label, counts in wanted.pop("classes").items():
            same &= given["classes"][label] == pytest.approx(counts)
        del given["classes"]
        same &= given == pytest.approx(wanted)
        same &= read.predict(held) == found.model.predict(held)
        read.grid.free()
    assert not world.any(not same)
    if fresh is not world:
        fresh.free()


@pytest.mark.parametrize("point", ["forward", "gradient", "jacobian"])
def test_the_first_place_that_is_not_finite_is_found_on_a_device(world, device, point, monkeypatch):
    texts = []
    for where in ("cpu", "gpu"):
        with monkeypatch.context() as patch:
            plant(patch, point, "nan", here=world.rank == world.size - 1, iteration=1)
            with pytest.raises(NumericalError) as caught:
                trained(world, where, "dense", SMALL | {"direction": "block_diagonal"})
        texts.append(str(caught.value))
    assert not world.any(texts[0] != texts[1] or "NaN in" not in texts[0])


def test_a_run_that_does_not_fit_the_device_is_refused(world, monkeypatch):
    monkeypatch.setattr(devices, "GPUS", StrictGpus(memory=20_000))
    with pytest.raises(ConfigError, match=r"needs 0\.\d+ GB on its GPU, of which it may take 2e-05") as caught:
        trained(world, "gpu", "dense", SMALL | {"direction": "block_diagonal"}, data_options={"n": 400})
    assert caught.value.collective
    found, _ = trained(world, "gpu", "dense", SMALL | {"direction": "block_diagonal"}, run={"checks": []})
    assert len(found.history) == 3


@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.parametrize("name", ["block_diagonal", "gauss_newton"])
def test_data_cross_once_and_then_only_scalars_and_messages(world, strict, name, kind):
    # Kronecker factors draw random numbers, as the test of draws has it
    method = SMALL | {"direction": name, "preconditioner": "none"}
    found, watch = trained(world, "gpu", kind, method, iterations=3)
    first, *rest = watch.crossed
    n_in = sum(n_bytes for (way, _), (_, n_bytes) in first.items() if way == "to_device")
    if world.size == 1:
        X = data(kind).read(0, 16, np.float64)
        features = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if kind == "sparse" else X.nbytes
        shape = found.summary.shape
        # training and test features once, with a target a sample, and the initial weights; biases are made there
        assert n_in == 2 * (features + 8 * 50) + 8 * (shape.n_params - sum(layer.n_out for layer in shape.layers))
    good = True
    for crossed in rest:
        for (way, phase), (n, n_bytes) in crossed.items():
            if way in ("download", "upload"):
                # messages between ranks, there and back, and none while ranks solve apart from each other
                good &= world.size > 1
                good &= name != "block_diagonal" or phase != "direction"
                good &= crossed["upload", phase] == crossed["download", phase]
            elif way == "scalar":
                good &= n_bytes <= 8 * n
            else:
                # a few numbers that ride in messages, and where the curvature's samples are, of 50 at most
                good &= n_bytes <= (8 * 50 if (way, phase) == ("to_device", "jacobian") else 80) * n
    assert not world.any(not good)


def test_what_crosses_does_not_grow_with_the_data(world, strict):
    """Of twice the samples and features no more but longer messages."""
    counts = []
    for n in (40, 80):
        method = SMALL | {"direction": "gauss_newton", "subsample": 1.0, "cg_max": 3, "cg_min": 3, "line_search_max": 1}
        _, watch = trained(
            world, "gpu", "dense", method, iterations=2, data_options={"n": n, "n_features": n}
        )
        ways = ("scalar", "to_host", "to_device")
        counts.append([
            {key: value for key, value in crossed.items() if key[0] in ways} for crossed in watch.crossed[1:]
        ])  # fmt: skip
    assert not world.any(counts[0] != counts[1])


def test_the_direction_phase_of_blocks_takes_scalars_alone(world, strict):
    method = SMALL | {"direction": "block_diagonal", "preconditioner": "none"}
    _, watch = trained(world, "gpu", "dense", method, iterations=2)
    good = all(
        {way for way, phase in crossed if phase == "direction"} <= {"scalar"} for crossed in watch.crossed[1:]
    )
    assert not world.any(not good)


@pytest.mark.parametrize("name", ["sgd", "kfac", "gauss_newton, sketch"])
def test_draws_and_batches_are_all_that_enters_besides(world, strict, name):
    """Row numbers of mini-batches, and random numbers of the samples of a step."""
    _, watch = trained(world, "gpu", "dense", METHODS[name] | {"direction": name.partition(",")[0]}, iterations=2)
    good = True
    for crossed in watch.crossed[1:]:
        n_bytes = sum(value[1] for (way, _), value in crossed.items() if way == "to_device")
        # features and targets take rows of at most 16 samples each of 4 batches, draws 3 numbers a sample
        good &= 0 < n_bytes <= 8 * 50 * 5 + 80 * 40
    assert not world.any(not good)

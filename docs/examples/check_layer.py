"""Global average pooling: one value a channel, trained, saved, loaded; the same as pooling with the image's size."""

import tempfile
from pathlib import Path

import numpy as np

import distnewton

rng = np.random.default_rng(0)
labels = rng.integers(2, size=80)
images = rng.standard_normal((80, 1, 6, 4)) + labels[:, None, None, None]
data = distnewton.ArraySource(images, labels)


def train(pooling: dict[str, object]) -> distnewton.Result:
    layers = [{"type": "conv", "channels": 3, "kernel": 3}, pooling, {"type": "dense", "width": "auto"}]
    return distnewton.train(
        distnewton.make_config({"network": {"layers": layers}, "run": {"iterations": 5, "dtype": "float64"}}),
        train_data=data,
    )


result, same = train({"type": "global_avg_pool"}), train({"type": "avg_pool", "size": [4, 2]})
assert result.model.network.shape.layers[0].image_out == (1, 1)
assert result.last.objective == same.last.objective
assert result.last.train["accuracy"] > 0.9
path = Path(tempfile.mkdtemp()) / "model.safetensors"
result.model.save(path)
assert distnewton.load_model(path).predict(data) == result.model.predict(data)

"""Convolutions of a rank whose share of a batch is empty."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.backend import Backend
from distnewton.network.layer_tables import convolutional_shape
from distnewton.network.layers import make_layer


@pytest.mark.parametrize("pooling", [None, "max_pool", "avg_pool"])
def test_products_of_no_samples(pooling):
    tables = [{"type": "conv", "channels": 2, "kernel": 3}, {"type": "dense", "width": 2}]
    if pooling:
        tables.insert(1, {"type": pooling, "size": 2})
    shape = convolutional_shape((1, 6, 6), tables).layers[0]
    layer = make_layer(shape, Backend.of("float64"))
    W = np.ones((9, 2))
    n_values = shape.n_elements * 2
    winners = np.zeros((0, n_values), np.uint8) if pooling == "max_pool" else None
    cotangents, gradient = np.zeros((0, 36)), np.full((9, 2), np.nan)
    layer.input_cotangent(np.zeros((0, n_values)), W, winners, cotangents)
    layer.weight_product(np.zeros((0, 36)), np.zeros((0, n_values)), winners, gradient)
    layer.elements(np.zeros((0, 36)), W, np.ones(2), winners, np.zeros((0, n_values)))
    assert list(layer.unfold(np.zeros((0, 36)), np.zeros((0, n_values)), winners)) == []
    np.testing.assert_array_equal(gradient, 0.0)

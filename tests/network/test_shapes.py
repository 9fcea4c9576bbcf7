"""Shapes of networks: arithmetic of windows, the equal Sequential, costs, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.errors import ConfigError
from distnewton.network.layer_tables import convolutional_shape, resolve_shape
from distnewton.network.shapes import Window, dense_shape
from distnewton.parallel.partition import Partition
from distnewton.planning.splits import auto_splits


def conv(channels, kernel, stride=1, padding=0):
    return {"type": "conv", "channels": channels, "kernel": kernel, "stride": stride, "padding": padding}


def pool(size, stride=None, kind="max_pool"):
    return {"type": kind, "size": size, "stride": stride}


def dense(width):
    return {"type": "dense", "width": width}


SIMPLENN = [
    conv(32, 5, padding=2), pool(2), conv(64, 3, padding=1), pool(2), conv(64, 3, padding=1), pool(2), dense(10),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "widths"), [
    (["auto", 5, "auto"], (9, 5, 3)), ([9, 5, 3], (9, 5, 3)), (["auto", 3], (9, 3)), ([9, 1, 1, "auto"], (9, 1, 1, 3)),
])  # fmt: skip
def test_widths_follow_the_data(layers, widths):
    assert resolve_shape(layers, 9, None, 3) == dense_shape(widths)


@pytest.mark.parametrize(("layers", "parts"), [
    ([8, 5, "auto"], ["[8, 5, 'auto']: the data has 9 features, not 8"]),
    (["auto", 5, 4], ["the data has 3 outputs (classes, or targets), not 4"]),
    ([8, 4], ["the data has 9 features, not 8", "the data has 3 outputs (classes, or targets), not 4"]),
])  # fmt: skip
def test_widths_that_differ_from_the_data_are_all_told(layers, parts):
    with pytest.raises(ConfigError) as caught:
        resolve_shape(layers, 9, None, 3)
    assert caught.value.collective
    assert all(part in str(caught.value) for part in [*parts, 'write "auto"'])


def test_the_network_of_simplenn():
    shape = convolutional_shape((1, 28, 28), SIMPLENN)
    assert shape.widths == (1, 32, 64, 64, 10)
    assert shape.rows_per_unit == (25, 9, 9, 9)
    assert [layer.image for layer in shape.layers] == [(28, 28), (14, 14), (7, 7), (1, 1)]
    assert [layer.image_out for layer in shape.layers] == [(14, 14), (7, 7), (3, 3), (1, 1)]
    assert shape.features_per_unit == 784
    assert shape.n_params == 26 * 32 + 289 * 64 + 577 * 64 + 577 * 10
    assert shape.modules == [0, 3, 6, 10]
    assert str(shape).startswith("1x28x28, conv 5x5x32, max pool 2x2, conv 3x3x64")


def test_modules_of_dense_networks_alternate_with_activations():
    assert dense_shape((4, 3, 2, 2)).modules == [0, 2, 4]
    shape = convolutional_shape((1, 4, 4), [conv(2, 3), {"type": "flatten"}, dense(5), dense(3)])
    assert shape.modules == [0, 3, 5]


@pytest.mark.parametrize(("window", "image", "places"), [
    (Window((3, 3)), (5, 4), (3, 2)),
    (Window((3, 2), (2, 1), (1, 0)), (5, 4), (3, 3)),
    (Window((2, 2), (2, 2)), (7, 7), (3, 3)),
    (Window((1, 1)), (1, 1), (1, 1)),
    (Window((4, 1)), (3, 3), (0, 3)),
])  # fmt: skip
def test_places_of_a_window(window, image, places):
    assert window.output(image) == places
    counted = [
        len([k for k in range(-p, n + p - size + 1) if (k + p) % step == 0])
        for n, size, step, p in zip(image, window.size, window.stride, window.padding, strict=True)
    ]
    assert window.output(image) == tuple(counted)


def test_images_without_convolutions_are_rows_of_numbers():
    assert convolutional_shape((3, 2, 2), [{"type": "flatten"}, dense(5), dense(3)]) == dense_shape((12, 5, 3))
    assert resolve_shape([dense(5), dense("auto")], 9, None, 3) == dense_shape((9, 5, 3))


@pytest.mark.parametrize(("tables", "part"), [
    ([conv(2, 9), dense(3)], "layer 1 (conv): a window of 9x9 does not fit images of 8x6"),
    ([conv(2, 3), pool(17), dense(3)], "layer 2 (max_pool): "),
    ([conv(2, 3), pool([2, 7]), dense(3)], "layer 2 (max_pool): a window of 2x7 does not fit images of 6x4"),
    ([pool(2), conv(2, 3), dense(3)], "layer 1 (max_pool): pooling must directly follow a convolution"),
    ([conv(2, 3), pool(2), pool(2, kind="avg_pool"), dense(3)], "layer 3 (avg_pool): pooling must directly follow"),
    ([conv(2, 3), dense(4), conv(2, 1), dense(3)], "layer 3 (conv): only dense layers can follow a dense layer"),
    ([conv(2, 3), {"type": "flatten"}], "must end in a dense layer"),
    ([conv(2, 3), dense(4)], "needs 3 outputs (classes, or targets), not 4"),
])  # fmt: skip
def test_layers_that_do_not_fit_are_told_by_number(tables, part):
    with pytest.raises(ConfigError) as caught:
        resolve_shape(tables, 48, (1, 8, 6), 3)
    assert part in str(caught.value)
    assert caught.value.collective


@pytest.mark.parametrize(("image_shape", "part"), [
    (None, "the data is a table of 48 features: set network.input"),
    ((1, 7, 7), "network.input = [1, 7, 7] makes 49 values, but the data has 48 features"),
])  # fmt: skip
def test_images_that_the_data_does_not_hold_are_told(image_shape, part):
    with pytest.raises(ConfigError) as caught:
        resolve_shape([conv(2, 3), dense("auto")], 48, image_shape, 3)
    assert part in str(caught.value)


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 8, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_automatic_splits_leave_few_channels_whole(n_ranks, channels):
    shape = convolutional_shape((channels, 28, 28), SIMPLENN)
    splits = auto_splits(shape, n_ranks)
    assert splits[0] == 1 or channels >= n_ranks
    partition = shape.partition(splits)
    assert partition.n_ranks == n_ranks
    assert partition.idle_ranks() == []


def test_rows_of_a_block_cover_the_weight_matrix_once():
    partition = Partition((4, 5, 3), (2, 2, 1), (6, 1), 9)
    for layer in (1, 2):
        blocks = [b for rank in range(4) for b in partition.blocks(rank) if b.layer == layer]
        seen = np.zeros((partition.widths[layer - 1] * partition.all_rows_per_unit[layer - 1], partition.widths[layer]))
        for block in blocks:
            assert len(block.rows) == block.shape[0]
            seen[np.ix_(block.rows, range(*block.outputs))] += 1
        assert (seen == 1).all()
    # position first, channel last: channels 2 and 3 of 6 positions
    np.testing.assert_array_equal(partition.block(1, 2).rows[:4], [12, 18, 13, 19])
    with pytest.raises(ValueError, match="rows per unit of 2 layers"):
        Partition((4, 5, 3), (1, 1, 1), (6,))

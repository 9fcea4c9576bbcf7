"""Pooling of images with channels last: (n, height, width, channels).

Max pooling chooses before the activation: activations are increasing, so the choice is the same, and only chosen values
are activated. Average pooling follows the activation. Both are linear once the choice is made, and come with their
adjoints.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distnewton.backend import Array, namespace
from distnewton.network.shapes import Pair, Window


class WindowViews:
    """Strided views of images, one for each pixel of a window.

    Parameters
    ----------
    window : Window
        Window without padding.
    image : tuple of int
        Height and width of the images.
    """

    def __init__(self, window: Window, image: Pair) -> None:
        self.window, self.image, self.image_out = window, image, window.output(image)
        (kh, kw), (sh, sw), (h, w) = window.size, window.stride, self.image_out
        self._slices = [
            (slice(y, y + sh * (h - 1) + 1, sh), slice(x, x + sw * (w - 1) + 1, sw))
            for y in range(kh)
            for x in range(kw)
        ]
        self.disjoint = sh >= kh and sw >= kw
        self.tiling = (sh, sw) == (kh, kw) and (h * kh, w * kw) == image

    def of(self, images: Array) -> Iterator[Array]:
        """View images as (..., height_out, width_out, channels), one view per window pixel, in row order."""
        for y, x in self._slices:
            yield images[..., y, x, :]

    def split(self, values: Array, n: int) -> Array:
        """View values of n samples, or k of each sample, as images (n, k, height, width, channels)."""
        return _as_images(values, n, self.image)

    def split_out(self, values: Array, n: int) -> Array:
        """View values in the same way as pooled images."""
        return _as_images(values, n, self.image_out)


def _as_images(values: Array, n: int, image: Pair) -> Array:
    """View rows of values as images."""
    n_per_sample, n_channels = len(values) // max(1, n), values.shape[1] // (image[0] * image[1])
    return values.reshape(n, n_per_sample, *image, n_channels)


class MaxPooling:
    """The largest pixel of each window, with its place (the first one if there are ties).

    Parameters
    ----------
    window : Window
        Window of at most 256 pixels.
    image : tuple of int
        Height and width of the images.
    """

    def __init__(self, window: Window, image: Pair) -> None:
        self._views = WindowViews(window, image)

    def choose(self, S: Array, out: Array, winners: Array) -> None:
        """Write the largest values of each window and their places.

        Parameters
        ----------
        S : Array of shape (n, height * width * channels)
            Images.
        out : Array of shape (n, height_out * width_out * channels)
            Largest values; NaN counts as largest.
        winners : Array of uint8, shape as ``out``
            Number of the chosen pixel within its window.
        """
        n = len(S)
        largest, places = self._views.split_out(out, n), self._views.split_out(winners, n)
        xp = namespace(S)
        larger = xp.empty(largest.shape, bool)
        for place, view in enumerate(self._views.of(self._views.split(S, n))):
            if place == 0:
                largest[...] = view
                places[...] = 0
                continue
            xp.greater(view, largest, out=larger)
            # later places have larger numbers; arithmetic is ten times as fast as masked copies
            numbers = larger.view(np.uint8)
            numbers *= np.uint8(place)
            xp.maximum(places, numbers, out=places)
            xp.maximum(largest, view, out=largest)

    def gather(self, P: Array, winners: Array, out: Array) -> None:
        """Write the values at the chosen places: the derivative of :meth:`choose`.

        Parameters
        ----------
        P : Array of shape (k n, height * width * channels)
            Changes of the images, possibly several per sample.
        winners : Array of uint8 of shape (n, height_out * width_out * channels)
            Places from :meth:`choose`.
        out : Array of shape (k n, height_out * width_out * channels)
            Overwritten.
        """
        n = len(winners)
        places, chosen = self._views.split_out(winners, n), self._views.split_out(out, n)
        xp = namespace(P)
        share = xp.empty_like(chosen)
        chosen[...] = 0
        for place, view in enumerate(self._views.of(self._views.split(P, n))):
            chosen += xp.multiply(view, places == place, out=share)

    def scatter(self, delta: Array, winners: Array, out: Array) -> None:
        """Write cotangents to the chosen places, zero elsewhere: the adjoint of :meth:`gather`.

        Parameters
        ----------
        delta : Array of shape (k n, height_out * width_out * channels)
            Cotangents of the chosen values.
        winners : Array of uint8 of shape (n, height_out * width_out * channels)
            Places from :meth:`choose`.
        out : Array of shape (k n, height * width * channels)
            Overwritten.
        """
        n = len(winners)
        places, cotangents = self._views.split_out(winners, n), self._views.split_out(delta, n)
        images = self._views.split(out, n)
        # if the windows tile the image, each pixel is written once
        if not self._views.tiling:
            images[...] = 0
        for place, view in enumerate(self._views.of(images)):
            if self._views.disjoint:
                namespace(out).multiply(cotangents, places == place, out=view)
            else:
                view += cotangents * (places == place)


class AveragePooling:
    """The mean of each window.

    Parameters
    ----------
    window : Window
        Any window.
    image : tuple of int
        Height and width of the images.
    """

    def __init__(self, window: Window, image: Pair) -> None:
        self._views = WindowViews(window, image)

    def average(self, A: Array, out: Array) -> None:
        """Write the means of each window.

        Parameters
        ----------
        A : Array of shape (n, height * width * channels)
            Images.
        out : Array of shape (n, height_out * width_out * channels)
            Overwritten.
        """
        means = self._views.split_out(out, len(A))
        means[...] = 0
        for view in self._views.of(self._views.split(A, len(A))):
            means += view
        means /= self._views.window.n_positions

    def spread(self, E: Array, out: Array) -> None:
        """Write the cotangents of the pixels: the adjoint of :meth:`average`.

        Parameters
        ----------
        E : Array of shape (n, height_out * width_out * channels)
            Cotangents of the means.
        out : Array of shape (n, height * width * channels)
            Overwritten.
        """
        shares = self._views.split_out(E, len(E)) / self._views.window.n_positions
        images = self._views.split(out, len(E))
        images[...] = 0
        for view in self._views.of(images):
            view += shares

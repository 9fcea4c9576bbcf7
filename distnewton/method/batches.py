"""Mini-batches and curvature subsamples: each pass has a new order of all samples, a function of (seed, pass) alone."""

from __future__ import annotations

import numpy as np

from distnewton.backend import Array
from distnewton.parallel.cuts import bounds


class Batches:
    """Rows of each mini-batch; the same on all ranks and grids.

    Parameters
    ----------
    n_samples : int
        Number of samples.
    size : int
        Largest size of a batch. The batches of a pass differ in size by at most one sample: a small last batch would
        count as much as the others.
    seed : int
        Seed of the orders.

    Attributes
    ----------
    per_pass : int
        Number of batches in a pass.
    """

    def __init__(self, n_samples: int, size: int, seed: int) -> None:
        self._n_samples, self._seed = n_samples, seed
        self.per_pass = max(1, -(-n_samples // size))
        self._pass, self._order = -1, np.empty(0, np.intp)

    def rows(self, step: int) -> Array:
        """Return the indices of the samples of a step.

        Parameters
        ----------
        step : int
            Number of the batch since the start, from 0.

        Returns
        -------
        Array of int
        """
        i_pass, i = divmod(step, self.per_pass)
        if i_pass != self._pass:
            self._pass, self._order = i_pass, _order(self._n_samples, self._seed, 3, i_pass)
        return self._order[slice(*bounds(self._n_samples, self.per_pass, i))]


class Subsamples:
    """Samples of each curvature subsample; the same on all ranks and grids.

    A pass cuts a new order of all samples into as many complete subsamples as it holds. All samples are equally likely,
    and none is left out for long.

    Parameters
    ----------
    n_samples, size : int
        Number of all samples, and of those in a subsample.
    seed : int
        Seed of the orders.

    Attributes
    ----------
    whole : bool
        Whether each subsample consists of all samples.
    """

    def __init__(self, n_samples: int, size: int, seed: int) -> None:
        self._n_samples, self._size, self._seed = n_samples, size, seed
        self.whole = size == n_samples
        self._pass, self._order = -1, np.empty(0, np.intp)

    def rows(self, i: int) -> Array:
        """Return the ascending indices of the samples of the i-th subsample; shape (size,)."""
        i_pass, k = divmod(i, self._n_samples // self._size)
        if i_pass != self._pass:
            self._pass, self._order = i_pass, _order(self._n_samples, self._seed, 1, i_pass)
        return np.sort(self._order[k * self._size : (k + 1) * self._size])


def _order(n_samples: int, seed: int, purpose: int, i_pass: int) -> Array:
    """Draw a random order of all samples."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, purpose, 0, i_pass]))
    return generator.permutation(n_samples)


def draws(seed: int, stage: int, step: int) -> np.random.Generator:
    """Return the generator of a step's random cotangents: a function of the arguments, the same on all ranks."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 4, stage, step]))


def draw_state(generator: np.random.Generator) -> list[int]:
    """Return the position of a generator of :func:`draws` in its sequence."""
    state = generator.bit_generator.state
    counter, buffer = state["state"]["counter"].tolist(), state["buffer"].tolist()
    return [*counter, *buffer, state["buffer_pos"], state["has_uint32"], state["uinteger"]]


def set_draw_state(generator: np.random.Generator, drawn: list[int]) -> None:
    """Move a generator with the same seed to a position that :func:`draw_state` returned."""
    state = generator.bit_generator.state
    state["state"]["counter"][:], state["buffer"][:] = drawn[:4], drawn[4:8]
    names = ("buffer_pos", "has_uint32", "uinteger")
    generator.bit_generator.state = {**state, **dict(zip(names, drawn[8:], strict=True))}

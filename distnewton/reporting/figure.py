"""The figure that pictures of runs share: two rows of curves, each against two things."""

from __future__ import annotations

from typing import Any

from distnewton.errors import MissingExtraError


def four_panels(purpose: str, width: float, height: float) -> tuple[Any, Any]:
    """A figure with 2 x 2 axes that share x by column and y by row.

    Parameters
    ----------
    purpose : str
        What the figure is for, in the message where matplotlib is missing.
    width, height : float
        Inches.

    Returns
    -------
    matplotlib.figure.Figure
    numpy.ndarray of matplotlib.axes.Axes, of shape (2, 2)

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(purpose, "plot") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes

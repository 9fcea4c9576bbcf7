"""The description of a data set, and the protocol that every data source follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray
    from scipy import sparse

    from distnewton.data.columns import ColumnNames
    from distnewton.data.row_selection import Chosen

    Features: TypeAlias = NDArray[Any] | sparse.csr_array
    Labels: TypeAlias = NDArray[np.float64] | NDArray[np.str_]


@dataclass
class Description:
    """Size, labels and peculiarities of a data set, found in one strict pass.

    It has more than a dozen attributes because it is a record: one rank reads it once and broadcasts it.

    Attributes
    ----------
    name : str
        Path or name of the data, for messages.
    format : str
        Name of the data format, ``bundled`` or ``memory``.
    n_samples, n_features : int
        Size of the whole data set; ``n_features`` is the requested number if there was one.
    n_nonzeros : int
        For sparse data the stored values of these features, including explicit zeros; for dense data the values that
        are not 0.
    sparse_format : bool
        Whether :meth:`DataSource.read` returns ``scipy.sparse.csr_array``.
    labels : ndarray of shape (n_samples,)
        float64 when all labels are numbers, else str; (n_samples, n_targets) float64 for an npz file with
        targets.
    n_ignored_values : int
        Stored values left out because their feature is beyond ``n_features``.
    notes : list of str
        Notices to show the user once, such as an ignored ``qid:``.
    image_shape : tuple of int or None
        ``(channels, height, width)`` if samples are images: the ``n_features`` features are then the values in the
        order (channel, row, column). None for tables, and if columns are left out.
    weights : ndarray of float64 of shape (n_samples,) or None
        Non-negative weight of each sample, some positive; None for equal weights.
    labelled : bool
        Whether there are labels; if not, `labels` is full of NaN.
    names : ColumnNames or None
        Names of the columns, if the data have any.
    classes : list of (float or str) or None
        All classes, if some may not occur in `labels`.
    packed : bool
        Whether :meth:`DataSource.read` returns :class:`~distnewton.data.packed.PackedColumns`.
    """

    name: str
    format: str
    n_samples: int
    n_features: int
    n_nonzeros: int
    sparse_format: bool
    labels: Labels
    n_ignored_values: int = 0
    notes: list[str] = field(default_factory=list)
    image_shape: tuple[int, int, int] | None = None
    weights: NDArray[np.float64] | None = None
    labelled: bool = True
    names: ColumnNames | None = None
    classes: list[float] | list[str] | None = None
    packed: bool = False


class DataSource(Protocol):
    """Data that can be read by ranges of features without holding the rest.

    :class:`~distnewton.data.source.Source`, the base of this package's own sources, documents the arguments.
    """

    @property
    def name(self) -> str:
        """Path or name, as it appears in messages."""

    def describe(self) -> Description:
        """Check all of the data in one streaming pass; meant for one rank."""

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read a range of features of all or some samples; meant for every rank."""

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample, for error messages."""

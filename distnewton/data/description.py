"""What a data source says about itself, and the protocol that every source follows."""

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

    It has more than a dozen attributes since it is a record: what one rank reads once, and broadcasts to all.

    Attributes
    ----------
    name : str
        Path or name of the data, as it appears in messages.
    format : str
        Name of the data format, ``bundled`` or ``memory``.
    n_samples, n_features : int
        Size of the whole data set; ``n_features`` is the number asked for where one was given.
    n_nonzeros : int
        Values that the file stores for these features. Sparse: explicit zeros count. Dense: values that are
        not 0.
    sparse_format : bool
        Whether :meth:`DataSource.read` returns ``scipy.sparse.csr_array``.
    labels : ndarray of shape (n_samples,)
        float64 when all labels are numbers, else str; (n_samples, n_targets) float64 for an npz file with
        targets.
    n_ignored_values : int
        Stored values left out because their feature is beyond ``n_features``.
    notes : list of str
        What a user should be told once, such as an ignored ``qid:``.
    image_shape : tuple of int or None
        ``(channels, height, width)`` where samples are images: their features are the values in the order (channel,
        row, column), ``n_features`` in number. None for tables, and where columns are left out.
    weights : ndarray of float64 of shape (n_samples,) or None
        How much each sample counts, not negative and some of them positive; None: all alike.
    labelled : bool
        Whether there are labels; else `labels` is full of NaN.
    names : ColumnNames or None
        Of the columns, where the data have any.
    classes : list of (float or str) or None
        All classes, where `labels` need not have each of them.
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
    """Data of which any range of features can be read without holding the rest.

    :class:`~distnewton.data.source.Source`, the base of this package's own sources, says what each method takes.
    """

    @property
    def name(self) -> str:
        """Path or name, as it appears in messages."""

    def describe(self) -> Description:
        """Check all of the data in one streaming pass; meant for one rank."""

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read a range of features of all samples, or of some; meant for every rank."""

    def locate(self, i_sample: int) -> str:
        """Where a sample stands, for error messages."""

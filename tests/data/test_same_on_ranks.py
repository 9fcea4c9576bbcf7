"""Files as users have them mean the same on one rank and on several: labels, features, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from distnewton.data.partitioned import open_and_describe
from distnewton.data.sources import open_data
from distnewton.errors import DataError

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))
X = np.random.default_rng(0).standard_normal((6, 5)).round(3)
FRAME = pd.DataFrame(X, columns=list("abcde")).assign(label=["007", "12", "#x", "1e3", "12", "#x"])
LONG = [72048431380967004, 72048431380967104] * 3
TEXTS = FRAME.label.tolist()


def put_arrays(folder, features, labels):
    """An npz file."""
    np.savez(folder / "t", X=features, y=np.array(labels))
    (folder / "t.npz").rename(folder / "t")


def put_pairs(folder, labels):
    """LIBSVM text."""
    pairs = [" ".join(f"{j}:{value}" for j, value in enumerate(row, 1)) for row in X.tolist()]
    (folder / "t").write_text("".join(f"{label} {row}\n" for label, row in zip(labels, pairs, strict=True)))


def put_text(folder, *lines):
    """Lines as they are."""
    (folder / "t").write_text("\n".join(lines) + "\n")


def put_sums(folder):
    """A sparse matrix with two entries in each place."""
    columns = np.tile(np.repeat(np.arange(5), 2), 6)
    sparse.save_npz(folder / "t", sparse.csr_array((np.repeat(X.ravel() / 2, 2), columns, np.arange(0, 61, 10))))
    np.save(folder / "t_y.npy", TEXTS)


ROWS = [",".join(map(str, row)) for row in X.tolist()]
SIGNLESS = [text.strip("#") for text in TEXTS]
CLASSES = ["None", "NA", "-"] * 2
READ = {
    "header of numbers": (
        lambda f: FRAME.set_axis([*range(5), "label"], axis=1).to_csv(f / "t", index=False), TEXTS, {},
    ),
    "index": (lambda f: FRAME.sample(frac=1, random_state=0).sort_index().to_csv(f / "t"), TEXTS, {}),
    "index of Parquet": (lambda f: FRAME.set_axis(np.arange(6)[::-1]).to_parquet(f / "t"), TEXTS, {}),
    "texts as pairs": (lambda f: put_pairs(f, SIGNLESS), SIGNLESS, {}),
    "texts in npz": (lambda f: put_arrays(f, X, TEXTS), TEXTS, {}),
    "long numbers": (lambda f: FRAME.assign(label=LONG).to_csv(f / "t", index=False), list(map(str, LONG)), {}),
    "long numbers in Parquet": (lambda f: FRAME.assign(label=LONG).to_parquet(f / "t"), list(map(str, LONG)), {}),
    "long numbers in npz": (lambda f: put_arrays(f, X, LONG), list(map(str, LONG)), {}),
    "long numbers as pairs": (lambda f: put_pairs(f, LONG), list(map(str, LONG)), {}),
    "signs in front": (
        lambda f: put_text(f, *(f"{label},{row}" for label, row in zip(TEXTS, ROWS, strict=True))), TEXTS,
        {"label_column": 0},
    ),
    "classes that look missing": (
        lambda f: FRAME.assign(label=CLASSES).to_csv(f / "t", index=False), CLASSES, {"missing_values": ["?"]},
    ),
    "colons": (
        lambda f: put_text(f, "chr1:100-200\tb\tc:d\td\te\tlabel",
                           *(f"{row}\t{label}".replace(",", "\t") for label, row in zip(TEXTS, ROWS, strict=True))),
        TEXTS, {},
    ),
    "many comments": (
        lambda f: put_text(f, *["# made by me, with care: 1:2"] * 4000,
                           *(f"{row};{label}".replace(",", ";") for label, row in zip(TEXTS, ROWS, strict=True))),
        TEXTS, {"comment": "#"},
    ),
    "separators at the ends": (
        lambda f: put_text(f, *(f"{row},{label}," for label, row in zip(TEXTS, ROWS, strict=True))), TEXTS, {},
    ),
    "sums": (put_sums, TEXTS, {}),
}  # fmt: skip
NO_LABEL = [*TEXTS[:5], None]
TIMES = pd.date_range("2020-01-01", periods=6)
REFUSED = {
    "no label": (lambda f: FRAME.assign(label=NO_LABEL).to_csv(f / "t", index=False), "t:7: label '' is missing"),
    "no label in Parquet": (lambda f: FRAME.assign(label=NO_LABEL).to_parquet(f / "t"), "row 6: label is missing"),
    "no label in npz": (lambda f: put_arrays(f, X, [0, 1, 0, 1, 0, np.nan]), "label is missing"),
    "times": (lambda f: FRAME.assign(label=TIMES).to_parquet(f / "t"), "labels must be numbers or text"),
    "times in npz": (lambda f: put_arrays(f, X, TIMES.to_numpy()), "labels must be .*, got dtype datetime"),
    "complex numbers": (lambda f: put_arrays(f, X, [1, 1j] * 3), "labels must be .*, got dtype complex"),
    "dates": (lambda f: FRAME.assign(a=TIMES).to_csv(f / "t", index=False), "column a: dates"),
    "header or not": (lambda f: put_text(f, "3,1,seto", *["1,2,u", "4,5,v"] * 20), "t:1: this line may.*data.header"),
    "two labels": (lambda f: put_text(f, *[f"1,2 1:{i} 2:3" for i in range(9)]), "t:1: label '1,2': multi-label"),
}


@mpi
@pytest.mark.parametrize("case", READ)
def test_what_is_read(world, folder, case):
    put, labels, options = READ[case]
    if world.rank == 0:
        put(folder)
    world.barrier()
    name = "t.npz" if case == "sums" else "t"
    source, description = open_and_describe(world, lambda: open_data(folder / name, **options))
    assert [str(label) for label in description.labels.tolist()] == labels
    assert (description.n_samples, description.n_features) == X.shape
    bounds = np.linspace(0, 5, world.size + 1).astype(int)
    start, stop = bounds[world.rank], bounds[world.rank + 1]
    own = source.read(start, stop)
    own = own.toarray() if sparse.issparse(own) else own
    assert not world.any(not np.array_equal(own, X[:, start:stop]))


@mpi
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(world, folder, case):
    put, message = REFUSED[case]
    if world.rank == 0:
        put(folder)
    world.barrier()
    with pytest.raises(DataError, match=message):
        open_and_describe(world, lambda: open_data(folder / "t"))


@mpi
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_in_another_order_are_put_right(world, folder, kind):
    indexed, other = FRAME.set_axis(np.arange(6)[::-1]), FRAME[FRAME.columns[::-1]]
    if world.rank == 0:
        for name, frame in (("t", indexed), ("o", other)):
            frame.to_csv(folder / name) if kind == "csv" else frame.to_parquet(folder / name)
    world.barrier()
    _, description = open_and_describe(world, lambda: open_data(folder / "t"))
    names = description.names
    source, again = open_and_describe(world, lambda: open_data(folder / "o", names=names, n_features=5))
    assert (again.names, again.labels.tolist()) == (names, TEXTS)
    start, stop = (int(5 * k / world.size) for k in (world.rank, world.rank + 1))
    assert not world.any(not np.array_equal(source.read(start, stop), X[:, start:stop]))

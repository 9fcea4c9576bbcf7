"""Genotypes in PLINK's files for tests, written without the package."""

from __future__ import annotations

import numpy as np

CODE_OF = {2: 0, -1: 1, 1: 2, 0: 3}
"""Two bits of a call, by the copies of A1; -1 is missing."""


def random_calls(n, p, seed=0, missing=0.05):
    """Copies of A1, (n, p): -1 where missing, column 3 without variation."""
    rng = np.random.default_rng(seed)
    calls = rng.binomial(2, rng.uniform(0.1, 0.9, p), (n, p))
    calls[:, 3] = 2
    calls[rng.random((n, p)) < missing] = -1
    return calls


def bed_bytes(calls):
    """Content of a .bed file: four samples a byte, the first in the lowest bits."""
    n, p = calls.shape
    content = bytearray(b"\x6c\x1b\x01")
    for k in range(p):
        for i in range(0, n, 4):
            content.append(sum(CODE_OF[int(call)] << (2 * j) for j, call in enumerate(calls[i : i + 4, k])))
    return bytes(content)


def identifiers(n):
    return [f"F{i} I{i}" for i in range(n)]


def write_bed(prefix, calls, phenotype=None, names=None, alleles=None):
    """Write the three files; returns the path of the .bed file."""
    n, p = calls.shape
    phenotype = ["-9"] * n if phenotype is None else phenotype
    names = [f"rs{k}" for k in range(p)] if names is None else names
    alleles = [("A", "G")] * p if alleles is None else alleles
    prefix.with_suffix(".bed").write_bytes(bed_bytes(calls))
    lines = [f"1 {name} 0 {k + 1} {a1} {a2}\n" for k, (name, (a1, a2)) in enumerate(zip(names, alleles, strict=True))]
    prefix.with_suffix(".bim").write_text("".join(lines))
    people = enumerate(zip(identifiers(n), phenotype, strict=True))
    prefix.with_suffix(".fam").write_text("".join(f"{name} 0 0 {1 + i % 2} {y}\n" for i, (name, y) in people))
    return prefix.with_suffix(".bed")


def write_table(path, columns, values, n_people=None, order=None):
    """Write a table of samples with a header; NaN is NA. Rows may be in any order."""
    names = identifiers(n_people or len(values))
    rows = [
        f"{name} " + " ".join("NA" if np.isnan(v) else repr(float(v)) for v in row)
        for name, row in zip(names, values, strict=False)
    ]
    order = range(len(rows)) if order is None else order
    path.write_text("\n".join(["FID IID " + " ".join(columns), *(rows[i] for i in order)]) + "\n")
    return path


def standardised(calls, kept=None, hardy_weinberg=False):
    """Columns as they are trained on, by numpy alone: of missing calls the mean, of constant columns zeros."""
    calls = calls if kept is None else calls[kept]
    columns = []
    for column in calls.T.astype(float):
        called = column >= 0
        mean = column[called].mean()
        filled = np.where(called, column, mean)
        size = np.sqrt(2 * (mean / 2) * (1 - mean / 2)) if hardy_weinberg else filled.std()
        varies = len(set(column[called])) > 1
        columns.append((filled - mean) / size if varies else 0 * filled)
    return np.array(columns).T

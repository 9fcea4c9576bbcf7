"""Peak memory that reading its own features costs a rank.

``python -m benchmarks.data_memory FILE`` reads the first of 1, 2, 4 and 8 parts of the features in a
fresh process each, and prints how far its peak memory rose above what the interpreter and libraries already took.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from distnewton.data.sources import open_data
from distnewton.parallel.partition import bounds


def peak_megabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(path: str, n_features: int, n_parts: int) -> None:
    """Read the first part of the features and print the megabytes of the result and of the peak."""
    from scipy.sparse import csr_array

    csr_array((1, 1))  # the library is not the data's cost
    before = peak_megabytes()
    X = open_data(path).read(*bounds(n_features, n_parts, 0), "float32")
    parts = [X] if not isinstance(X, csr_array) else [X.data, X.indices, X.indptr]
    held = sum(part.nbytes for part in parts) / 2**20
    print(f"1/{n_parts} of the features: {held:.1f} MB held, peak +{peak_megabytes() - before:.1f} MB")


def main() -> None:
    """Describe the file here, measure in processes of their own."""
    path = sys.argv[1]
    if len(sys.argv) == 4:
        measure(path, int(sys.argv[2]), int(sys.argv[3]))
        return
    n_features = open_data(path).describe().n_features
    for n_parts in (1, 2, 4, 8):
        command = [sys.executable, "-m", __spec__.name, path, str(n_features), str(n_parts)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

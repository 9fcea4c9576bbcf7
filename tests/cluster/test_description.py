"""Cluster files: the shipped ones are valid and documented, wrong ones explained, measured values written in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.cluster.hosts import read_hostfile
from distnewton.cluster.tables import set_values, write_measured
from distnewton.errors import ConfigError, CreateError, MissingInputError

CONFIGS = Path(__file__).parents[2] / "cluster_configs"
FILES = sorted(CONFIGS.glob("*.toml"))


def test_the_clusters_that_the_readme_promises():
    assert {file.stem for file in FILES} == {"laptop", "hosts", "slurm-cpu", "slurm-gpu"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_files_are_valid_and_say_what_they_are(file):
    assert load_cluster(file).name == file.stem
    assert file.read_text(encoding="utf-8").startswith("# ")


def test_the_readme_lists_every_key_and_no_other():
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([a-z_0-9.]+)` \|", text, re.MULTILINE))
    keys = {"name"}
    for table, field in Cluster.model_fields.items():
        if table != "name":
            keys |= {f"{table}.{key}" for key in field.annotation.model_fields}
    assert {name for name in listed if not name.endswith(".toml")} == keys


SLURM = 'name = "x"\n[launch]\nscheduler = "slurm"\n[slurm]\n'
NO_NODES = 'name = "x"\n[launch]\nnodes = 0\nlauncher = "aprun"'
WRONG = [
    ("", "name: field required"),
    ('name = "a b"', "a name of letters, digits, dots and dashes, got 'a b'"),
    ('name = "x"\n[launch]\nrank_per_node = 2', "launch.rank_per_node: unknown key; did you mean ranks_per_node?"),
    (NO_NODES, "launch.nodes: input should be greater than or equal to 1, got 0"),
    (NO_NODES, "launch.launcher: input should be 'mpirun', 'srun' or 'none'"),
    ('name = "x"\n[launch]\nnodes = 2.5', "launch.nodes"),
    ('name = "x"\n[launch]\nlauncher = "srun"', 'launch.launcher = "srun" needs launch.scheduler = "slurm"'),
    ('name = "x"\n[slurm]\ntime = "1:00:00"', '[slurm] has no effect unless launch.scheduler = "slurm"'),
    (SLURM + 'mem = "4G"\nmem_per_cpu = "1G"', "mem and mem_per_cpu exclude each other"),
    (SLURM + 'time = "2 hours"', "slurm.time: a time limit is written"),
    (SLURM + 'mem = "4 GB"', "slurm.mem: memory is written as"),
    (SLURM + 'partition = "a\\n#SBATCH -A b"', "slurm.partition: must be one line"),
    ('name = "x"\n[environment]\nmodules = ["gcc; rm -rf /"]', "environment.modules.0: string should match pattern"),
    ('name = "x"\n[environment]\nvariables = {"A B" = "1"}', "environment.variables"),
    ('name = "x"\n[launch]\nhosts = ["a b"]', "launch.hosts.0: a name of letters"),
    ('name = "x"\n[launch]\nhosts = ["a"]\nhostfile = "h"', "launch.hosts and launch.hostfile exclude each other"),
    ('name = "x"\n[launch]\nlauncher = "none"\nranks_per_node = 4', 'launch.launcher = "none" starts one rank'),
    ('name = "x"\n[network]\nlatency_us = -1.0', "network.latency_us"),
    ('name = "x"\n[network]\nlatency_us = nan', "network.latency_us"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG, ids=range(len(WRONG)))
def test_every_error_of_a_cluster_file_is_told(tmp_path, text, words):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_cluster(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_what_is_no_cluster_file(tmp_path):
    with pytest.raises(MissingInputError, match=r"cannot read the cluster file .*none\.toml"):
        load_cluster(tmp_path / "none.toml")
    (tmp_path / "c.toml").write_text("<html>")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load_cluster(tmp_path / "c.toml")


def test_host_files_of_all_mpis(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# ours\nh0\nh1 slots=2 max_slots=4  # big\r\nh2:3\n\nh0\n")
    assert read_hostfile(file, 4) == {"h0": 8, "h1": 2, "h2": 3}
    for text, words in (("h0\nh 1\n", r"hosts:2: expected .* got 'h 1'"), ("# none\n", "names no host")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_hostfile(file, 4)
    with pytest.raises(MissingInputError):
        read_hostfile(tmp_path / "none", 4)


def test_measured_values_leave_the_rest_of_a_file_alone(tmp_path):
    file = tmp_path / "c.toml"
    file.write_bytes((CONFIGS / "hosts.toml").read_bytes())
    before = file.read_text()
    measured = {"network": {"latency_us": 12.3456}, "compute": {"sparse_gflop_s": 3.0}}
    write_measured(file, "ignored", {"nodes": 9}, measured)
    after = file.read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == [
        ("latency_us = 30.0         # gigabit Ethernet", "latency_us = 12.35         # gigabit Ethernet"),
        ("sparse_gflop_s = 2.0", "sparse_gflop_s = 3"),
    ]
    assert load_cluster(file).network.latency_us == 12.35


def test_measured_values_make_a_new_file(tmp_path):
    file = tmp_path / "mine.toml"
    write_measured(file, "mine", {"nodes": 2, "ranks_per_node": 3}, {"compute": {"float64_gflop_s": 7.0}})
    cluster = load_cluster(file)
    assert (cluster.launch.nodes, cluster.launch.ranks_per_node, cluster.compute.float64_gflop_s) == (2, 3, 7.0)
    with pytest.raises(CreateError, match="cannot write"):
        write_measured(tmp_path / "no" / "folder.toml", "x", {}, {})


def test_tables_are_found_and_added():
    text = "[a]\nx = 1 # one\n\n[b]\n# y = 5\n"
    assert set_values(text, {"a": {"z": 2.0}, "b": {"y": 3.0}, "c": {"w": 4.0}}) == (
        "[a]\nx = 1 # one\nz = 2\n\n[b]\n# y = 5\ny = 3\n\n[c]\nw = 4\n"
    )
    assert tomllib.loads(set_values("", {"a": {"x": 1.5}})) == {"a": {"x": 1.5}}

"""The command bench: real runs on one and two ranks, job files of a cluster, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launched import distnewton, launches, run

from distnewton.cli.main import main
from distnewton.errors import ConfigError, MissingInputError

RECIPE = str(Path(__file__).parents[2] / "launch/recipes/digits.toml")
CLUSTERS = Path(__file__).parents[2] / "cluster_configs"
SHORT = [
    "--repeats=1", "--iterations=2", "--set=network.layers=auto-16-auto", "--set=data.n_train=200",
]  # fmt: skip


class TestRuns:
    pytestmark = launches

    def test_a_study_on_one_and_two_ranks(self, tmp_path):
        done = run(distnewton("bench", "scaling", RECIPE, "--ranks=1,2", *SHORT, "--run-dir", tmp_path / "s",
                              "--cluster", CLUSTERS / "laptop.toml"))  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [json.loads(line) for line in (tmp_path / "s/scaling.jsonl").read_text().splitlines()]
        assert [(line["n_ranks"], line["refused"], line["n_threads"]) for line in lines] == [(1, "", 1), (2, "", 1)]
        assert all(line["predicted_seconds"] > 0 for line in lines)
        # the blocks of the recipe's method are the same on one rank and on two
        assert lines[1]["objective"] == pytest.approx(lines[0]["objective"], rel=1e-5)
        assert "strong scaling" in done.stdout
        assert (tmp_path / "s/scaling.md").read_text() in done.stdout
        again = run(distnewton("bench", "scaling", RECIPE, "--collect", "--run-dir", tmp_path / "s"))
        assert again.returncode == 0
        assert "note: no --cluster: no prediction" in again.stderr

    def test_a_rank_that_is_slow(self, tmp_path):
        done = run(distnewton("bench", "straggler", RECIPE, "--ranks=2", *SHORT, "--run-dir", tmp_path / "s"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 ranks, the last one 5 times slower" in done.stdout
        assert done.stdout.count(" x), direction ") == 4


def test_job_files_from_1_to_64_nodes(tmp_path, capsys):
    nodes = "1,2,4,8,16,32,64"
    assert main(["bench", "scaling", RECIPE, "--dry-run", f"--nodes={nodes}", "--repeats=2", f"--run-dir={tmp_path}/s",
                 f"--cluster={CLUSTERS}/slurm-cpu.toml"]) == 0  # fmt: skip
    jobs = sorted((tmp_path / "s").glob("ranks-*/repeat-*/job.sh"))
    assert len(jobs) == 14
    assert "#SBATCH --nodes=64" in jobs[-1].read_text()
    assert capsys.readouterr().out.count("dry run: ") == 14
    config = (jobs[-1].parent / "job.toml").read_text()
    assert "deterministic = true" in config
    assert "iterations = 9" in config


@pytest.mark.parametrize(
    ("more", "kind", "text"),
    [
        (["--kind=sideways"], ConfigError, "strong, weak-weights, weak-samples"),
        (["--ranks=2"], ConfigError, "at least two numbers of ranks"),
        (["--collect"], MissingInputError, "holds no study"),
    ],
)
def test_what_is_refused(tmp_path, more, kind, text):
    with pytest.raises(kind, match=text):
        main(["bench", "scaling", RECIPE, f"--run-dir={tmp_path}/s", *more])


def test_a_straggler_needs_company(tmp_path):
    with pytest.raises(ConfigError, match="no other rank would wait for the slow one"):
        main(["bench", "straggler", RECIPE, "--ranks=1", f"--run-dir={tmp_path}/s"])
    assert not (tmp_path / "s").exists()

"""The command plan: from flags, from data, as JSON, and what it refuses."""

from __future__ import annotations

import json

import pytest

from distnewton.cli.main import main
from distnewton.errors import ConfigError, DistNewtonError, MissingInputError, UsageError

FLAGS = ["plan", "--set=network.layers=784-200-100-10", "--sizes=samples=6000"]


def test_every_factorisation_and_the_recommended_splits(capsys):
    assert main([*FLAGS, "--ranks=4", "--memory-gb=1"]) == 0
    out, err = capsys.readouterr()
    for word in ("2-2-2-2", "1-4-1-4", "4-1-4-1", "recommended: --partition.splits", "what limits:", "messages",
                 "jacobian", "line_search", "largest network of this kind that fits 1 GB a rank: 784-"):  # fmt: skip
        assert word in out
    assert err.count("note: no --cluster") == 1


def test_as_json(capsys):
    assert main([*FLAGS, "--ranks=6", "--json", "--set=method.direction=gauss_newton", "--set=method.cg_max=7"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [plan["n_ranks"] for plan in plans] == [6] * len(plans)
    assert len(plans) >= 4
    best = plans[0]
    assert best["seconds"] == pytest.approx(sum(phase["seconds"] for phase in best["phases"].values()))
    # 7 steps need 8 products, a message each
    assert best["phases"]["direction"]["n_messages"] == 8


def test_a_matrix_in_sample_space_is_part_of_the_memory(capsys):
    dual = ["--ranks=4", "--json", "--set=method.direction=dual", "--set=method.subsample=1", "--set=run.dtype=float64"]
    assert main([*FLAGS, *dual]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)
    n = 6000 * 10
    # the lower half dealt out, and a group of columns as large as half of a share
    assert first["memory_bytes"]["system"] == pytest.approx(8 * n**2 * 3 / 16, rel=0.15)
    assert first["phases"]["direction"]["seconds"] > n**3 / 3 / 4 / 1e11


def test_from_data(capsys):
    assert main(["plan", "--set=data.train=digits:train", "--set=network.layers=auto-32-auto", "--ranks=2"]) == 0
    assert "64-32-10: " in capsys.readouterr().out


def test_of_a_residual_problem(capsys):
    assert main(["plan", "poisson5d", "--ranks=4", "--json"]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)
    # 3500 points of one equation, whose seven channels ride along
    assert first["memory_bytes"]["jacobian"] > 8 * 3500 * 7 * 96 / 4
    assert main(["plan", "kovasznay"]) == 0
    out, err = capsys.readouterr()
    assert "1,021 samples, 1,021 of curvature (3 rows each), dual" in out
    assert "auto" not in err


def test_chosen_splits_only(capsys):
    assert main([*FLAGS, "--ranks=4", "--set=partition.splits=4-1-4-1"]) == 0
    out = capsys.readouterr().out
    assert "recommended: --partition.splits 4-1-4-1" in out
    assert "2-2-2-2" not in out


@pytest.mark.parametrize(
    ("more", "kind", "text"),
    [
        (["--ranks=4", "--set=partition.splits=2-1-2-1"], ConfigError, "Splits that fit 4 ranks"),
        (["--set=method.direction=sgd"], ConfigError, "there is no model of sgd yet"),
        (["--ranks=1000000"], ConfigError, "1,000,000 ranks of a grid, 3 layers are too many to plan"),
        (["--ranks=100000000000000000"], ConfigError, "too many to plan"),
        (["--ranks=27720"], ConfigError, "27,720 ranks of a grid, 3 layers and 97 ways to split are too many"),
        (["--ranks=1000000", "--set=partition.splits=1000000-1-1-1"], ConfigError, "too many to plan"),
        (["--cluster=none.toml"], MissingInputError, "cannot read the cluster file none.toml"),
    ],
)
def test_what_is_refused(more, kind, text):
    with pytest.raises(kind, match=text):
        main([*FLAGS, *more])


def test_thousands_of_layers(capsys):
    layers = "auto-" + "3-" * 3000 + "auto"
    assert main(["plan", "--sizes=samples=9,features=9,outputs=2", f"--set=network.layers={layers}"]) == 0
    assert "ranks" in capsys.readouterr().out


def test_without_data_and_flags_it_says_what_it_needs():
    with pytest.raises(DistNewtonError, match="samples, features and outputs in --sizes"):
        main(["plan", "--set=network.layers=auto-20-auto"])


def test_sizes_by_flags_of_the_last_version(capsys):
    old = ["--samples", "9", "--features=8", "--outputs=2", "--test-samples=4", "--nonzeros=3.5"]
    new = ["--sizes=samples=9,features=8", "--sizes", "outputs=2, test_samples=4,nonzeros=3.5"]
    texts = []
    for given in (old, new):
        assert main(["plan", *given, "--set=network.layers=auto-5-auto", "--json"]) == 0
        out, err = capsys.readouterr()
        texts.append(out)
        assert ("note: --samples is written --sizes samples=9 from the next version on" in err) == (given is old)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("text", ["sample=3", "samples", "samples=0", "samples=1e3", "nonzeros=inf", ""])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="argument --sizes: expected"):
        main([*FLAGS, f"--sizes={text}"])

"""``distnewton convert``: what it says and leaves, its options, its exit codes."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton.cli.main import main
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, CreateError, DataError, MissingInputError

TEXT = "2 1:0.25 3:7\n1 2:1e-3\n2 3:0.1\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTNEWTON_DATA", raising=False)
    (tmp_path / "data.txt").write_text(TEXT)
    return tmp_path


def test_what_it_says_and_leaves(place, capsys):
    assert main(["convert", "data.txt", "out/store", "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data.txt: 3 samples, 3 features (sparse, 4 values)"
    assert "as float64, to the last bit, in 1 blocks" in lines[1]
    assert lines[2].startswith("verified: out/store")
    assert lines[3] == "store: out/store"
    rows = [[0.25, 0, 7], [0, 1e-3, 0], [0, 0, 0.1]]
    np.testing.assert_array_equal(open_data("out/store").read(0, 3).toarray(), rows)
    with pytest.raises(CreateError, match="--overwrite replaces it"):
        main(["convert", "data.txt", "out/store"])
    assert main(["convert", "data.txt", "out/store", "--overwrite", "--dtype", "float32"]) == 0
    assert "as float32, rounded to float32" in capsys.readouterr().out
    assert main(["convert", "out/store", "--verify"]) == 0
    assert capsys.readouterr().out.startswith("verified: out/store")
    features = place / "out" / "store" / "features.bin"
    content = bytearray(features.read_bytes())
    content[5] ^= 1
    features.write_bytes(content)
    with pytest.raises(DataError, match="was changed or damaged between bytes 0 and"):
        main(["convert", "out/store", "--verify"])


def test_options_of_the_source(place, monkeypatch):
    (place / "table.csv").write_text("cat,1,2\ndog,3,4\n")
    main(["convert", "table.csv", "labels first", "--set", "data.label_column=0"])
    assert open_data("labels first").describe().labels.tolist() == ["cat", "dog"]
    (place / "gaps.csv").write_text("#1\nname,a,class\nx,,u\nx,3,v\ny,5,u\n")
    main(["convert", "gaps.csv", "gaps", "--set", "data.comment=#", "--set", "data.missing=mean"])
    np.testing.assert_array_equal(open_data("gaps").read(0, 3), [[1, 0, 4], [1, 0, 3], [0, 1, 5]])
    with pytest.raises(ConfigError, match=r"--set run\.seed=1: data are read by data\.format, "):
        main(["convert", "table.csv", "other", "--set", "run.seed=1"])
    (place / "zero.txt").write_text("1 0:5\n2 2:6\n")
    main(["convert", "zero.txt", "zero", "--set", "data.zero_based=true", "--set", "data.n_features=9"])
    assert open_data("zero").describe().n_features == 9
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "far.txt").write_text(TEXT)
    main(["convert", "far.txt", "far", "--data-dir", "elsewhere"])
    monkeypatch.setenv("DISTNEWTON_DATA", str(place / "elsewhere"))
    main(["convert", "far.txt", "farther"])
    assert open_data("farther").manifest.source_files[0].name == str(place / "elsewhere" / "far.txt")
    # a file that is here as it is typed goes first, as for evaluate and predict
    main(["convert", "data.txt", "near"])


def test_what_is_wrong(place, monkeypatch):
    with pytest.raises(ConfigError, match="convert needs a TARGET"):
        main(["convert", "data.txt"])
    with pytest.raises(DataError, match=r"is an incomplete store: store\.json"):
        main(["convert", "data.txt", "--verify"])
    with pytest.raises(MissingInputError, match="store nothing: does not exist"):
        main(["convert", "nothing", "--verify"])
    with pytest.raises(MissingInputError, match="does not exist"):
        main(["convert", "nothing.txt", "store"])
    (place / "bad.txt").write_text("1 1:2\n1 1:1 1:2\n")
    with pytest.raises(DataError, match=r"bad\.txt:2: index 1 appears twice"):
        main(["convert", "bad.txt", "store"])
    (place / "file").write_text("")
    with pytest.raises(CreateError, match="cannot create"):
        main(["convert", "data.txt", "file/store"])
    assert not list(place.glob("store*"))
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(ConfigError, match="convert is called without mpirun"):
        main(["convert", "data.txt", "store"])

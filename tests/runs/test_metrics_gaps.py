"""A history that lost lines: whoever reads it says which iterations are missing."""

from __future__ import annotations

import json
import shutil

import pytest
from launched import call

from distnewton.runs.run_folder import gap_note


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    (folder / "d.csv").write_text("".join(f"{k % 7},{k % 3},{k % 2}\n" for k in range(40)))
    done = call(
        "train", f"--data.train={folder}/d.csv", "--network.layers=auto-3-auto", "--method.direction=gauss_newton",
        f"--run-dir={folder}/R", "--run.iterations=4", "--run.checkpoint_minutes=0", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


CASES = {
    "whole": (lambda lines: lines, ""),
    "torn": (lambda lines: [*lines[:4], lines[4][:30]], ""),
    "cut": (lambda lines: lines[:1], "1-3"),
    "empty": (lambda lines: [], "0-3"),
    "lines removed": (lambda lines: [lines[0], lines[2], lines[4]], "1, 3"),
    "the first removed": (lambda lines: lines[2:], "0-1"),
    "the last removed": (lambda lines: lines[:4], ""),
    "a line overwritten": (lambda lines: [lines[0], "x" * 50 + "\n", *lines[2:]], "1"),
    "lines in another order": (lambda lines: lines[::-1], ""),
}


@pytest.mark.parametrize("case", [*CASES, "no file"])
def test_a_run_that_resumes_names_what_is_missing(trained, tmp_path, case):
    run = tmp_path / "R"
    shutil.copytree(trained / "R", run)
    before = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    change, missing = CASES.get(case, (None, "0-3"))
    if change:
        (run / "metrics.jsonl").write_text("".join(change(before)))
    else:
        (run / "metrics.jsonl").unlink()
    done = call("train", f"--resume={run}", "--run.iterations=6")
    assert done.returncode == 0, done.stderr
    told = f"metrics.jsonl lacks iterations {missing}: lines were cut or removed" if missing else "lacks"
    assert done.stdout.count(told) == bool(missing)
    after = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lost = {k for part in missing.split(", ") if part for k in range(int(part[0]), int(part[-1]) + 1)}
    assert [json.loads(line)["iteration"] for line in after] == [k for k in range(7) if k not in lost]
    assert json.loads(after[4 - len(lost)]) == json.loads(before[4])
    assert call("info", run).stdout.count(told) == bool(missing)
    if case in ("whole", "cut"):
        assert call("report", run).returncode == 0
        assert (run / "report.html").read_text().count(told) == bool(missing)


def test_gaps_are_short_text():
    assert gap_note([]) == gap_note([0, 1, 2]) == gap_note([0, 1, 1]) == ""
    assert "iterations 0-4, 6, 8-999999999999998:" in gap_note([5, 7, 10**15 - 1])

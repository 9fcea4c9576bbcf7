"""Measured tables: the pages show what the file holds, and a command renews both."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks import cited

REPOSITORY = Path(__file__).parents[2]
ENTRY = {
    "command": "printf 'measuring\\n\\n| set | s |\\n|---|---|\\n| DATA | 2 |\\n\\nend\\n'", "machine": "m",
    "version": "1", "date": "2020-01-01", "rows": [["set", "s"], ["old", "1"]], "columns": ["s"], "note": "Old.",
}  # fmt: skip


@pytest.fixture
def entries():
    return json.loads((REPOSITORY / cited.FILE).read_text(encoding="utf-8"))


def test_pages_show_what_the_file_holds(entries, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    places = []
    for path in cited.pages():
        text = path.read_text(encoding="utf-8")
        places += re.findall(r"<!-- measured: (.*?) -->", text)
        assert cited.page_with_tables(text, entries) == text, f"{path}: run python -m benchmarks.cited"
    assert sorted(places) == sorted(entries)


def test_an_entry_says_where_it_comes_from(entries):
    for name, entry in entries.items():
        assert entry["command"], name
        assert entry["machine"], name
        assert entry["version"], name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"]), name
        header, *rows = entry["rows"]
        assert rows, name
        assert all(len(row) == len(header) for row in rows), name
        assert set(entry.get("columns", header)) <= set(header), name


def test_a_command_renews_file_and_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/benchmarks").mkdir(parents=True)
    cited.FILE.write_text(json.dumps({"a": ENTRY, "b": ENTRY}))
    page = tmp_path / "README.md"
    page.write_text("# Page\n\n<!-- measured: a -->\nstale\n<!-- end -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["cited", "--data", "sets", "a"])
    cited.main()
    new = json.loads(cited.FILE.read_text())
    assert new["a"]["rows"] == [["set", "s"], [str(tmp_path / "sets"), "2"]]
    assert new["a"]["columns"] == ["s"]
    assert "note" not in new["a"]
    assert new["b"] == ENTRY
    shown = page.read_text()
    assert "stale" not in shown
    assert "| s |\n| --- |\n| 2 |\n" in shown
    assert new["a"]["machine"] in shown
    assert shown.endswith("<!-- end -->\nafter\n")


def test_a_command_without_a_table_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there is no table"):
        cited.measured({**ENTRY, "command": "echo nothing"}, tmp_path)


def test_a_table_may_be_written_into_a_file(tmp_path):
    command = "printf 'none\\n'; printf '| a |\\n|--|\\n| 1 |\\n' > OUT/table.md"
    assert cited.measured({**ENTRY, "command": command}, tmp_path)["rows"] == [["a"], ["1"]]


def test_columns_of_equal_names_are_different_ones():
    entry = {key: value for key, value in ENTRY.items() if key != "columns"}
    assert "| 1 | 2 |" in cited.shown({**entry, "rows": [["s", "s"], ["1", "2"]]})


def test_a_name_without_an_entry_is_an_error():
    with pytest.raises(KeyError, match="unknown"):
        cited.page_with_tables("<!-- measured: unknown -->\n<!-- end -->\n", {})

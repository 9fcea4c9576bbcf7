"""The report: what it shows, that it is well-formed and loads nothing, that files cannot smuggle anything into it."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from launched import call, distnewton, launches, mpirun, run, small_data
from matplotlib.figure import Figure

import distnewton as package
from distnewton.config import make_config, to_toml
from distnewton.data.labels import LabelMapping
from distnewton.data.partitioned import Task
from distnewton.errors import CreateError, DataError, MissingExtraError, MissingInputError
from distnewton.models.predictions import MAX_CLASSES, MAX_POINTS, summarize
from distnewton.parallel.partition import Partition
from distnewton.reporting.drawing import Drawn, draw, save
from distnewton.reporting.failure_report import explain_failure
from distnewton.reporting.headline import headline
from distnewton.reporting.pictures import BlockMap, Chart, Curve, HeatMap, Panels, label
from distnewton.reporting.report import report_page, write_report
from distnewton.reporting.report_pictures import convergence, costs
from distnewton.reporting.run_data import read_run, read_runs
from distnewton.reporting.run_info import describe_run
from distnewton.runs.run_folder import partition_facts

EVIL = "</pre><script>alert(1)</script><img src=http://evil/x onerror=alert(1)>\"'&"
VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Tags of a page, whether they are closed in order, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def record(k, n_ranks=4, slow=1.0, **more):
    compute = [1.0 if rank else slow for rank in range(n_ranks)]
    direction = {"method": "block_diagonal", "inner_iterations": [3 + k + r for r in range(n_ranks)], "residuals": [],
                 "finished_ranks": [0], "stopped_early": n_ranks > 1, "seconds": [], "step_sizes": []}  # fmt: skip
    return {
        "iteration": k, "elapsed_seconds": 2.5 * k, "training_seconds": 2.0 * k, "objective": 3.0 / (k + 1),
        "loss": 1.0, "gradient_norm": 0.5 if k else None, "damping": 0.5**k, "reduction_ratio": 0.9, "step_size": 1.0,
        "note": "", "direction": direction if k else None, "seconds": {"gradient": 1.0, "direction": 0.5, "wait": 0.1},
        "phase_wait_seconds": {"gradient": 0.25, "direction": 0.0},
        "phase_seconds": {"gradient": 0.75, "direction": 0.5},
        "wait_seconds": [2.0 - c for c in compute], "compute_seconds": compute,
        "sent_bytes": {"gradient": 1e6, "evaluation": 5e6}, "train": {"accuracy": 0.5 + 0.1 * k}, "test": {},
    } | more  # fmt: skip


def made_run(path, n=4, n_ranks=4, records=None, predictions=None, end=True, **environment):
    path.mkdir(parents=True)
    method = {"direction": "block_diagonal"}
    config = make_config({"data": {"train": "some data.csv"}, "run": {"iterations": 3}, "method": method})
    (path / "config.toml").write_text(to_toml(config))
    partition = Partition((6, 5, 3), (2, 2, 2))
    facts = {"python": "3", "platform": "here", "packages": {"numpy": "2"}, "mpi_library": "MPI", "ranks": n_ranks,
             "hosts": ["a", "a", "b", "b"][:n_ranks], "threads_per_rank": 1, "splits": [2, 2, 2], "blas": [],
             "slurm": {}} | partition_facts("6-5-3", partition) | environment  # fmt: skip
    (path / "environment.json").write_text(json.dumps(facts))
    lines = [record(k, n_ranks) for k in range(n)] if records is None else records
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if predictions:
        (path / "predictions.json").write_text(json.dumps(predictions))
    if end:
        (path / "end.json").write_text('{"exit_code": 0}\n')
    return path


CONFUSION = {"set": "test", "task": "classification", "n_samples": 9, "classes": ["red", "green", "blue"],
             "n_right": [3, 1, 2], "n_of": [3, 3, 3], "n_unknown": 0,
             "confusion": [[3, 0, 0], [2, 1, 0], [1, 0, 2]]}  # fmt: skip


@pytest.fixture
def words_only(monkeypatch):
    """Pages whose pictures are their titles: drawing takes most of the time of a page."""
    monkeypatch.setattr("distnewton.reporting.report.draw", lambda picture: Drawn("", {}))


def page_of(*paths):
    return Page(report_page(read_runs(list(paths))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that leaves nothing out, and its page, drawn once."""
    path = made_run(tmp_path_factory.mktemp("whole") / "one", predictions=CONFUSION)
    return path, report_page(read_runs([path]))


def test_a_page_shows_all_there_is(whole):
    found = Page(whole[1])
    for words in (
        "Run one", "objective against seconds of training", "error (1 - accuracy) against iterations",
        "seconds by phase", "seconds in MPI by phase",
        "megabytes sent", "damping lambda", "step size alpha", "CG steps by rank", "blocks of the weight matrices",
        "rank 3", "confusion matrix", "Most frequent mistakes", "some data.csv", "config.toml", "block_diagonal",
    ):  # fmt: skip
        assert words in found.text, words
    assert "is the slowest:" not in found.text
    assert "has not ended" not in found.text
    # the table of the run: sent without evaluation, MB
    assert " 4.0 MB " in found.text
    # ranks are told by shades, since the other colours have meanings
    blocks = next(p for p in re.findall(r"<svg.*?</svg>", whole[1], re.DOTALL) if "blocks of the" in p)
    assert "var(--heat)" in blocks
    assert "var(--c" not in blocks
    assert "green taken for red: 2 of 3 samples" in found.text


def test_nothing_is_loaded_and_nothing_runs(whole):
    text = whole[1]
    found = Page(text)
    assert found.tags.isdisjoint({"script", "img", "link", "iframe", "object", "use", "image", "foreignObject"})
    names = {name for name, _ in found.attributes}
    assert not [name for name in names if name in ("src", "xlink:href") or name.startswith("on")]
    # the only links save what is in the page
    assert all(value.startswith("data:") for name, value in found.attributes if name == "href")
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(picture)  # well-formed as XML, too


def test_what_comes_from_files_is_escaped(tmp_path):
    evil_confusion = CONFUSION | {"classes": [EVIL, "b", "c"]}
    lines = [record(k, note=EVIL) for k in range(3)]
    path = made_run(
        tmp_path / "a<b>&", records=lines, predictions=evil_confusion, hosts=[EVIL, "b", "c", "d"], mpi_library=EVIL,
        packages={EVIL: EVIL}, network=EVIL, slurm={EVIL: EVIL},
    )  # fmt: skip
    other = made_run(tmp_path / EVIL.replace("/", "|"))
    config = make_config({"data": {"train": EVIL}, "run": {"iterations": 3}})
    (path / "config.toml").write_text(to_toml(config))
    for pages in ([path], [path, other]):
        found = page_of(*pages)
        assert found.tags.isdisjoint({"script", "img", "b"})
        assert EVIL in found.text
        assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_several_runs_are_overlaid(tmp_path):
    one, two = made_run(tmp_path / "x" / "run"), made_run(tmp_path / "y" / "run", n=7)
    runs = read_runs([one, two])
    assert [found.name for found in runs] == ["x/run", "y/run"]
    page = report_page(runs)
    found = Page(page)
    assert "2 runs" in found.text
    assert found.text.count("x/run") > 5
    # curves of both, told apart by their colour
    objective = next(p for p in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "objective against" in p)
    assert "var(--c0)" in objective
    assert "var(--c1)" in objective


@pytest.mark.usefixtures("words_only")
def test_the_slowest_rank_is_named(tmp_path):
    lines = [record(k, slow=1.6) for k in range(4)]
    found = page_of(made_run(tmp_path / "slow", records=lines))
    assert "rank 0 on a is the slowest: it computes 1.6 times as long as the others" in found.text
    lines = [record(k, slow=1.2) for k in range(4)]
    assert "is the slowest:" not in page_of(made_run(tmp_path / "even", records=lines)).text


@pytest.mark.usefixtures("words_only")
def test_a_run_that_went_on_with_other_ranks(tmp_path):
    lines = [record(k, n_ranks=2) for k in range(4)] + [record(k, slow=1.6) for k in range(4, 8)]
    found = page_of(made_run(tmp_path / "grown", records=lines))
    assert "CG steps by rank" in found.text
    assert "rank 0 on a is the slowest: it computes 1.6 times as long" in found.text


@pytest.mark.usefixtures("words_only")
def test_runs_that_did_not_end_well(tmp_path):
    path = made_run(tmp_path / "cut", end=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "elap')
    found = page_of(path)
    assert "has not ended, or was cut off" in found.text
    assert "the last line of metrics.jsonl is cut off" in found.text
    (path / "errors").mkdir()
    for torn in (b'{"iteration": 4, "elap', b"", b"\xff\x00\x00"):
        (path / "metrics.jsonl").write_bytes((path / "metrics.jsonl").read_bytes().rpartition(b"\n")[0] + b"\n" + torn)
        note = ["note       the last line of metrics.jsonl is cut off and was left out"] * bool(torn)
        assert [line for line in describe_run(path) if line.startswith("note")] == note
        first, *others = explain_failure(path)
        assert [first] == note or not torn
        assert (others or [first])[0].startswith("cause      no report was written after iteration 3, ")
    (path / "end.json").write_text('{"exit_code": 75}')
    assert "stopped by the clock or a signal after iteration 3" in page_of(path).text
    (path / "end.json").write_text('{"exit_code": 130}')
    assert "interrupted after iteration 3" in page_of(path).text
    compared = made_run(tmp_path / "compared" / "kfac", end=False)
    (compared.parent / "comparison.md").write_text("")
    assert "has not ended" not in page_of(compared).text
    empty = made_run(tmp_path / "empty", records=[], end=False)
    assert "nothing was recorded" in page_of(empty).text
    nothing = made_run(tmp_path / "nan", records=[record(0, objective=None, train={"accuracy": None}, direction=None)])
    page_of(nothing)


@pytest.mark.usefixtures("words_only")
def test_the_line_of_the_model_of_a_run_that_diverged_is_the_lowest(tmp_path):
    note = "training diverged: the objective is nan after iteration 3; the model is that of iteration 1"
    objectives = [3.0, 1.0, 40.0, None]
    lines = [record(k, objective=value) for k, value in enumerate(objectives)]
    lines[-1]["note"] = note
    run = read_run(made_run(tmp_path / "wild", records=lines), "wild")
    assert run.model_line.iteration == 1
    assert note in run.remarks
    assert read_run(made_run(tmp_path / "tame"), "tame").model_line.iteration == 3


@pytest.mark.usefixtures("words_only")
def test_runs_of_older_versions(tmp_path):
    lines = [record(k) for k in range(3)]
    for line in lines:
        del line["compute_seconds"]
        if line["direction"]:
            del line["direction"]["step_sizes"]
    path = made_run(tmp_path / "old", records=lines)
    facts = json.loads((path / "environment.json").read_text())
    (path / "environment.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "partition"}))
    found = page_of(path)
    assert "CG steps by rank" in found.text
    assert "Who owns what" not in found.text


@pytest.mark.usefixtures("words_only")
def test_damaged_folders(tmp_path):
    with pytest.raises(MissingInputError, match=r"is not a run folder: it holds no config\.toml"):
        read_runs([tmp_path])
    path = made_run(tmp_path / "run", predictions=CONFUSION)
    whole = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(whole.replace('"iteration": 2', '"iteration": "two"'))
    with pytest.raises(DataError, match=r"metrics\.jsonl:3: not a record: iteration: Input should be a valid integer"):
        read_runs([path])
    (path / "metrics.jsonl").write_text(whole)
    (path / "predictions.json").write_text(json.dumps(CONFUSION | {"confusion": [[1, 2]]}))
    with pytest.raises(DataError, match="counts and classes do not fit together"):
        read_runs([path])
    (path / "predictions.json").write_text("[")
    with pytest.raises(DataError, match=r"predictions\.json cannot be read"):
        read_runs([path])
    (path / "predictions.json").unlink()
    with pytest.raises(CreateError, match="cannot write"):
        write_report([path], path / "config.toml" / "report.html")
    (path / "metrics.jsonl").unlink()
    with pytest.raises(MissingInputError, match=r"it holds no metrics\.jsonl"):
        read_runs([path])


def test_summaries_of_predictions_against_loops():
    rng = np.random.default_rng(0)
    for k in (3, MAX_CLASSES + 5):
        classes = LabelMapping(tuple(range(k)))
        outputs, targets = rng.standard_normal((500, k)), rng.integers(-1, k, 500)
        found = summarize(Task("classification", classes, k), "test", outputs, targets)
        counts = np.zeros((k, k), int)
        for output, target in zip(outputs, targets, strict=True):
            if target >= 0:
                counts[target, int(np.argmax(output))] += 1
        assert found["n_right"] == np.diag(counts).tolist()
        assert found["n_of"] == counts.sum(axis=1).tolist()
        assert found["n_unknown"] == int((targets < 0).sum())
        if k == 3:
            assert found["confusion"] == counts.tolist()
        else:
            wrong = counts - np.diag(np.diag(counts))
            assert [n for *_, n in found["mistaken"]] == sorted(wrong.ravel().tolist())[::-1][:40]
            assert all(counts[i, j] == n and i != j for i, j, n in found["mistaken"])
        json.dumps(found)
    task, outputs = Task("binary", LabelMapping((-1, 1)), 1), np.array([[1.0], [-2], [3]])
    binary = summarize(task, "train", outputs, np.array([1.0, 1, 0]))
    assert binary["confusion"] == [[0, 1], [1, 1]]
    x = rng.standard_normal((5000, 1))
    numbers = summarize(Task("regression", None, 1), "test", x + 1, x)
    assert len(numbers["targets"]) == MAX_POINTS
    np.testing.assert_allclose(np.array(numbers["predictions"]) - numbers["targets"], 1.0)
    assert numbers["targets"][0] == x[0, 0]
    assert numbers["targets"][-1] == x[-1, 0]


@pytest.mark.parametrize(("value", "shown"), [
    (0, "0"), (0.5, "0.5"), (1234.5, "1,234"), (2e-7, "2e-7"), (1.5e8, "1.5e8"), (-0.001, "-0.001"), (20, "20"),
])  # fmt: skip
def test_numbers_are_short(value, shown):
    assert label(value) == shown


def test_curves_break_where_nothing_was_measured():
    broken = Chart("t", "x", [Curve("", [0, 1, 2, 3, 4, 5], [1.0, 2.0, None, 3.0, 4.0, float("nan")])])
    paths = ElementTree.fromstring(draw(broken).element).iter("path")
    line = next(path for path in paths if "var(--c0)" in path.get("style", ""))
    assert line.get("d").count("M") == 2
    assert not Chart("t", "x", [Curve("", [0, 1], [None, None])])
    assert not Chart("t", "x", [Curve("", [0], [-1.0])], log=True)
    assert not Chart("t", "x", [])
    assert Curve("", list(range(5000)), [1.0] * 5000).points(log=False).shape[1] < 1000


@pytest.mark.parametrize("values", [[1e-9, 1e5], [0.2, 0.21], [3.0, 3.0], [1.0]])
def test_logarithmic_axes_have_values(values):
    svg = draw(Chart("t", "x", [Curve("", list(range(len(values))), values)], log=True)).element
    assert len({e.text for e in ElementTree.fromstring(svg).iter("text")}) >= 3
    assert "mathdefault" not in svg


def test_a_heat_map_keeps_its_order_and_empty_cells():
    table = [[1.0, None], [4.0, 2.0]]
    picture = HeatMap("t", table, ["a", "b"], ["c", "d"], ("r", "s"), number="{:g}")
    root = ElementTree.fromstring(draw(picture).element)
    cells = [e for e in root.iter("rect") if e.find("title") is not None]
    assert [e.find("title").text for e in cells] == ["r a, s c: 1", "r b, s c: 4", "r b, s d: 2"]
    # the first row is on top
    assert float(cells[0].get("y")) < float(cells[1].get("y"))
    styles = [e.get("style") for e in root.iter("path") if "var(--heat)" in e.get("style", "")]
    one, four, two = (float(re.search(r"opacity: ([\d.]+)", style + "; opacity: 1")[1]) for style in styles[:3])
    assert four == 1.0
    assert one < two < four
    assert {"1", "2", "4"} <= {e.text for e in root.iter("text")}


def test_the_grid_names_the_owner_of_every_block():
    partition = Partition((7, 5, 3), (2, 3, 2))
    root = ElementTree.fromstring(draw(BlockMap("t", partition, ["host"] * 6)).element)
    tips = [e.find("title").text for e in root.iter("rect")]
    expected = [
        f"layer {m}, block ({i}, {j}): rank {partition.owner(m, i, j)}"
        for m in (1, 2) for i in range(partition.splits[m - 1]) for j in range(partition.splits[m])
    ]  # fmt: skip
    assert [tip.split(",")[0] + "," + ",".join(tip.split(",")[1:3]) for tip in tips] == expected


SETTINGS = "text.usetex: True\naxes.facecolor: black\ntext.parse_math: True\nsvg.fonttype: path\nno line of settings\n"


# without a window system named, only the settings are to be kept out: the other case has both
@pytest.mark.parametrize("window_system", [pytest.param("", marks=pytest.mark.slow), "nonsense"])
def test_the_users_matplotlib_does_not_matter(tmp_path, window_system):
    (tmp_path / "matplotlibrc").write_text(SETTINGS)
    predictions = CONFUSION | {"classes": ["$a_{1$", "\x1b[1m", "c"]}
    run_folder = made_run(tmp_path / "$x$_{1} 日本 \\frac", predictions=predictions)
    done = subprocess.run(
        distnewton("report", run_folder), cwd=tmp_path, env=os.environ | {"MPLBACKEND": window_system},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no pictures" not in done.stderr
    page = (run_folder / "report.html").read_text()
    assert page.count("<svg") > 8
    assert "$a_{1$" in page
    assert "$x$_{1} 日本 \\frac" in page


def test_without_matplotlib_the_page_has_its_tables(tmp_path, monkeypatch):
    path = made_run(tmp_path / "one", predictions=CONFUSION)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    sentence, advice = write_report([path], tmp_path / "page.html")
    assert sentence.startswith("80.0 % of the training samples are right after 6.0 s of training on 4 ranks; 67 % ")
    assert "pip install 'distnewton[plot]'" in advice
    shown = Page((tmp_path / "page.html").read_text())
    assert advice in shown.text
    assert "svg" not in shown.tags
    for words in ("Who owns what", "Most frequent mistakes", " 4.0 MB ", "config.toml"):
        assert words in shown.text
    with pytest.raises(MissingExtraError):
        save(Panels("t", []), tmp_path / "a.png", "the picture")


def in_browser(page):
    """What Chromium makes of a page, and what it complains about."""
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'chrome'}",
         "--enable-logging=stderr", "--v=0", "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout, done.stderr


no_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to render the page with")


@no_chromium
def test_a_browser_finds_no_fault(tmp_path, whole):
    (tmp_path / "page.html").write_text(whole[1], encoding="utf-8")
    shown, complaints = in_browser(tmp_path / "page.html")
    assert shown.count("<svg") > 8
    assert "CONSOLE" not in complaints


MEASURE = """<iframe width="500" height="900" onload="
  const wide = [...this.contentDocument.querySelectorAll('html, .scroll, figure')].filter(
    element => element.scrollWidth > element.clientWidth + 1);
  document.body.innerHTML = '<p>wider than 500 px: ' + wide.map(element => element.textContent).join(' | ') + '</p>'
" srcdoc="%s"></iframe>"""


@no_chromium
def test_a_narrow_page_scrolls_downwards_only(tmp_path, whole, words_only):
    runs = read_runs([made_run(tmp_path / f"run-{k}", predictions=CONFUSION) for k in range(4)])
    for page in (whole[1], report_page(runs)):
        (tmp_path / "page.html").write_text(MEASURE % html.escape(page), encoding="utf-8")
        assert "<p>wider than 500 px: </p>" in in_browser(tmp_path / "page.html")[0]


def sine(x):
    return np.exp(-(np.pi**2) * x[1] / 4) * np.sin(np.pi * x[0])


@pytest.mark.parametrize(
    ("recipe", "layers", "solution", "titles"),
    [
        ("sinc", "1-3-1", lambda x: np.sinc(10 * x[0]), {"u", "error |u - solution|"}),
        ("heat", "2-3-1", sine, {"u", "error |u - solution|"}),
        ("kovasznay", "2-3-3", None, {f"u[{k}]" for k in range(3)} | {f"error |u[{k}] - solution|" for k in range(3)}),
        ("poisson5d", "5-3-1", None, set()),
    ],
)
def test_solutions_of_equations_and_their_errors_are_drawn(tmp_path, recipe, layers, solution, titles):
    folder = tmp_path / "run"
    done = call("train", recipe, "--network.layers", layers, "--run.iterations", 0, "--run-dir", folder)
    assert done.returncode == 0, done.stderr
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert "columns  train: rmse; test: relative_l2" in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("    0 "))
    assert f" {last['test']['relative_l2']:.4g} " in row
    shown = report_page(read_runs([folder]))
    captions = set(re.findall(r"<figcaption>([^<]*) <span", shown))
    assert {name for name in captions if name.startswith(("u", "error"))} == titles
    assert "relative_l2 against iterations" in captions
    assert headline(read_runs([folder])).startswith("Test relative_l2 ")
    assert ("prediction against target" in shown) != bool(titles)
    found = json.loads((folder / "predictions.json").read_text())
    if solution is not None:
        X = np.stack(np.meshgrid(*found["axes"], indexing="ij"), axis=-1).reshape(-1, len(found["axes"]))
        values = package.load_model(folder).predict(X).ravel()
        np.testing.assert_allclose(found["values"], [values], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["errors"], [values - solution(X.T)], rtol=1e-4, atol=1e-5)
        found["errors"][0].pop()
        (folder / "predictions.json").write_text(json.dumps(found))
        with pytest.raises(DataError, match="axes and values do not fit together"):
            read_runs([folder])


@pytest.mark.parametrize("n_ranks", [1, 3])
@pytest.mark.launches
@pytest.mark.skipif(launches[1].args[0], reason="no mpirun")
def test_the_command_reports_real_runs(tmp_path, n_ranks):
    data = small_data(tmp_path)
    folder = tmp_path / "run"
    train = ["train", "--data.train", data, "--network.layers", "auto-6-auto", "--run.iterations", 3]
    train += ["--method.direction", "block_diagonal"]
    train += ["--run-dir", folder]
    done = run([*mpirun(n_ranks), *distnewton(*train)]) if n_ranks > 1 else call(*train)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "predictions.json").read_text())
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert sum(found["n_right"]) / 90 == pytest.approx(last["train"]["accuracy"])
    assert len(last["compute_seconds"]) == n_ranks
    assert not (folder / "convergence.png").exists()
    if n_ranks == 1:  # the page is drawn anew each time, and where it goes does not depend on ranks
        assert call("report", folder, "--out", tmp_path / "elsewhere.html").returncode == 0
        assert not (folder / "convergence.png").exists()
    done = call("report", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "convergence.png").exists()
    sentence, report = done.stdout.splitlines()
    assert sentence.startswith(f"{100 * last['train']['accuracy']:.1f} % of the training samples are right after ")
    assert report == f"report: {folder / 'report.html'}"
    shown = Page((folder / "report.html").read_text())
    assert sentence in shown.text
    assert "confusion matrix" in shown.text
    # one rank owns all, sends nothing and waits for nobody
    for words in ("Who owns what", "waiting in MPI", "ended early"):
        assert (words in shown.text) == (n_ranks > 1)
    failed = call("report", tmp_path)
    assert (failed.returncode, "is not a run folder" in failed.stderr) == (66, True)


def test_predictions_come_with_the_result():
    rng = np.random.default_rng(0)
    source = package.ArraySource(rng.standard_normal((40, 3)), rng.standard_normal(40))
    config = make_config({"network": {"layers": ["auto", 4, "auto"], "loss": "squared"}, "run": {"iterations": 2}})
    result = package.train(config, train_data=source, test_data=source)
    found = result.predictions
    residuals = np.array(found["predictions"]) - np.array(found["targets"])
    assert found["set"] == "test"
    assert np.sqrt(np.mean(residuals**2)) == pytest.approx(result.last.test["rmse"], rel=1e-5)


def test_terminal_page_and_metrics_have_the_same_figures(tmp_path, words_only):
    folder = tmp_path / "run"
    train = ["train", "--data.train", small_data(tmp_path), "--network.layers", "auto-6-auto", "--run.iterations", 3]
    done = run([*mpirun(2), *distnewton(*train, "--method.direction=block_diagonal", "--run-dir", folder)])
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = f"{lines[-1]['training_seconds']:.2f}"
    sent = sum(v for line in lines for phase, v in line["sent_bytes"].items() if phase != "evaluation") / 1e6
    waited = sum(sum(line["wait_seconds"]) / 2 for line in lines)
    table = dict(re.findall(r"│ (.*?) +│ (.*?) +│", done.stdout))
    assert (table["seconds"], table["sent by all ranks"]) == (seconds, f"{sent:,.1f} MB")
    assert table["waiting in MPI, a rank"].startswith(f"{waited:.2f} s (")
    shown = page_of(folder).text
    figures = [table[name] for name in ("waiting in MPI, a rank", "train accuracy")]
    for figure in (seconds, f"{sent:,.1f} MB", table["objective"].split(" -> ")[1], *figures):
        assert f" {figure} " in shown
    assert f"of 3 in {seconds} s" in "\n".join(describe_run(folder))


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, "67 % of it waiting."),
        ({"cores": 2}, "67 % of it waiting (4 ranks share 2 cores; try 2)."),
        ({"cores": 8}, "67 % of it waiting."),
    ],
)
def test_the_first_sentence_says_what_limits(tmp_path, more, found):
    runs = read_runs([made_run(tmp_path / "one", **more)])
    assert headline(runs).endswith(found)


def test_the_first_sentence_names_a_slow_rank(tmp_path, words_only):
    slow = read_runs([made_run(tmp_path / "one", records=[record(k, slow=1.9) for k in range(4)], cores=4)])
    assert "rank 0 on a is the slowest" in page_of(tmp_path / "one").text
    assert headline(slow).endswith("waiting (for rank 0, above all).")
    # twice as long is what a rank that shares its core takes
    crowded = made_run(tmp_path / "two", records=[record(k, slow=1.9) for k in range(4)], cores=2)
    assert "is the slowest" not in page_of(crowded).text


def test_the_first_sentence_on_several_runs_says_which_was_sooner(tmp_path):
    quick = [record(k, training_seconds=0.5 * k, test={"accuracy": 0.5 + 0.1 * k}) for k in range(4)]
    runs = read_runs([
        made_run(tmp_path / "good", records=[record(k, test={"accuracy": 0.6 + 0.1 * k}) for k in range(4)]),
        made_run(tmp_path / "quick", records=quick),
    ])  # fmt: skip
    assert headline(runs) == (
        "Best test accuracy of any iteration: good 0.9000, quick 0.8000. "
        "quick reaches 0.8000 first, after 1.5 s; good after 4.0 s."
    )
    # a metric of another set is no comparison
    assert not headline(read_runs([tmp_path / "good", made_run(tmp_path / "other")]))


def test_a_page_on_several_runs_replaces_none_of_theirs(tmp_path, monkeypatch, words_only):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        made_run(tmp_path / name)
    assert call("report", "a").stdout.endswith("report: a/report.html\n")
    own = (tmp_path / "a/report.html").read_bytes()
    assert call("report", "a", "b").stdout.endswith("report: a-b.html\n")
    assert (tmp_path / "a/report.html").read_bytes() == own


def saved(picture, suffix):
    return draw(picture).files[suffix].decode()


def curves(chart):
    return {(curve.kind, curve.name): list(curve.y) for curve in chart.curves}


def test_an_error_of_zero_stands_at_the_lower_edge_and_the_model_is_marked(tmp_path):
    lines = [record(k, train={"accuracy": a}, validation={"accuracy": v}) for k, (a, v) in
             enumerate([(0.5, 0.25), (0.75, 0.875), (1.0, 0.5)])]  # fmt: skip
    chart = convergence(read_runs([made_run(tmp_path / "one", records=lines)]))[2]
    assert chart.log
    assert chart.title == "error (1 - accuracy) against iterations"
    assert chart.nought == 0.0625
    found = curves(chart)
    assert found["line", "training"] == [0.5, 0.25, 0.0625]
    assert found["line", "validation"] == [0.75, 0.125, 0.5]
    assert found["mark", "model: iteration 1"] == [0.125]


def test_several_runs_are_shown_with_their_best_so_far(tmp_path):
    values = [0.5, 0.75, 0.625]
    lines = [record(k, validation={"accuracy": value}) for k, value in enumerate(values)]
    chart = convergence(read_runs([made_run(tmp_path / name, records=lines) for name in "ab"]))[2]
    assert chart.title == "validation error (1 - accuracy) against iterations"
    assert curves(chart)["faint", "a"] == [0.5, 0.25, 0.375]
    assert curves(chart)["line", "a"] == [0.5, 0.25, 0.25]


def test_the_bar_of_phases_is_as_long_as_the_training(tmp_path):
    (run,) = read_runs([made_run(tmp_path / "one")])
    bars = costs([run])[0]
    seconds = run.lines[-1].training_seconds
    assert sum(bars.values[0]) == seconds > 5.0
    # phases that took nothing are left out
    assert saved(bars, "csv").splitlines() == [
        "\"seconds by phase, waiting included (s)\",gradient,direction,other", f"one,3.0,2.0,{seconds - 5.0}",
    ]  # fmt: skip
    texts = {e.text for e in ElementTree.fromstring(draw(bars).element).iter("text")}
    assert {"3", "2", "6 s"} <= texts


def test_ticks_are_whole_iterations_and_several_values(tmp_path):
    lines = [record(k, objective=2.8 * 0.78**k) for k in range(13)]
    figure = Figure()
    axes = figure.subplots()
    convergence(read_runs([made_run(tmp_path / "one", records=lines)]))[0].draw_on(axes)
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    low, high = axes.get_ylim()
    assert sum(low < tick < high for tick in axes.get_yticks()) > 2


def test_pictures_can_be_saved_with_their_numbers(whole):
    path, text = whole
    page = Page(text)
    links = [value for name, value in page.attributes if name == "href"]
    kinds = [link.partition(";")[0] for link in links]
    assert kinds.count("data:image/png") == kinds.count("data:text/csv") == kinds.count("data:image/svg+xml") > 4
    table = base64.b64decode(next(link for link in links if "text/csv" in link).partition(",")[2]).decode()
    assert table.splitlines()[:3] == ["curve,iterations,objective against iterations", ",0,3.0", ",1,1.5"]
    picture = base64.b64decode(next(link for link in links if "svg" in link).partition(",")[2])
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert f"mpirun -n 4 distnewton train {path}/config.toml --run-dir NEW" in page.text

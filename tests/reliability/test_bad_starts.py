"""Bad starts over an old run: it stays as it was, byte for byte, whichever command goes wrong and however."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from launched import call, distnewton, launching, run

from distnewton.cli import liblinear_commands
from distnewton.errors import DistNewtonError

TABLE = "a,b,label\n" + "".join(f"{k % 7},{k % 3},{k % 2}\n" for k in range(40))
SLURM = 'name = "c"\n[launch]\nscheduler = "slurm"\nlauncher = "srun"\nnodes = 1\nranks_per_node = 1\n'
HERE = 'name = "c"\n[launch]\nlauncher = "none"\n'
FILES = {
    "table.csv": TABLE, "slurm.toml": SLURM, "here.toml": HERE, "wide.toml": HERE.replace("none", "mpirun"),
    "empty.csv": "", "one.csv": TABLE.replace(",0\n", ",1\n"), "text.csv": TABLE + "x,y,1\n",
    "huge.csv": "a,b,label\n" + "".join(f"{k}e200,-{k}e200,{k % 2}\n" for k in range(1, 40)),
    "broken.toml": "[data\n", "sbatch": "#!/bin/sh\nexit 1\n",
}  # fmt: skip
TRAIN = ["train", "--data.train=table.csv", "--network.layers=auto-3-auto", "--method.direction=gauss_newton",
         "--quiet"]  # fmt: skip
OVER = [*TRAIN, "--run-dir=R", "--run.iterations=1", "--set", "run.overwrite=true"]
SUBMIT = ["submit", "--run-dir=R", "--set=data.train=table.csv", "--set=run.overwrite=true"]


def over(*changes):
    return [*OVER, *changes]


STARTS = {
    # the new run is wrong
    "data that do not exist": over("--data.train=TYPO.csv"),
    "test data that do not exist": over("--data.test=TYPO.csv"),
    "validation data that do not exist": over("--data.validation=TYPO.csv"),
    "a label column that does not exist": over("--data.label_column=nowhere"),
    "empty data": over("--data.train=empty.csv"),
    "one class": over("--data.train=one.csv"),
    "texts among numbers": over("--data.train=text.csv", "--data.categories=refuse"),
    "numbers that overflow": over("--data.train=huge.csv", "--data.scale=none"),
    "a model for data": over("--data.train=R/model.safetensors"),
    "other layers": over("--network.layers=5-3-auto"),
    "splits of another length": over("--partition.splits=1-1"),
    "splits of more ranks than there are": over("--partition.splits=2-2-2"),
    "more replicas than ranks": over("--partition.replicas=3"),
    "an unknown direction": over("--method.direction=newton"),
    "an unknown setting": over("--method.cg_mx=3"),
    "a value out of range": over("--method.damping=-1"),
    "a recipe that does not exist": ["train", "TYPO.toml", *over()[1:]],
    "a recipe that is broken": ["train", "broken.toml", *over()[1:]],
    "no GPU": over("--run.device=gpu"),
    "too little memory": over("--network.layers=auto-300000-300000-auto"),
    "patience without validation": over("--run.patience=3"),
    # the new run is to start from the old one
    "a first model that does not exist": over("--network.start=TYPO.safetensors"),
    "the run for a first model": over("--network.start=R"),
    "the run's model for a first model": over("--network.start=R/model.safetensors"),
    "the run's model through a link": over("--network.start=link"),
    "the run's model in the run through a link": over("--network.start=R", "--run-dir=link"),
    # the folder has another name
    "through a link": over("--run-dir=link", "--data.train=TYPO.csv"),
    "by another path": over("--run-dir=R/../R/.", "--data.train=TYPO.csv"),
    "a folder in the run": over("--run-dir=R/checkpoints", "--data.train=TYPO.csv"),
    # resuming
    "no word on the old run": [*TRAIN, "--run-dir=R"],
    "resuming with other settings": [*TRAIN, "--run-dir=R", "--resume", "--method.C=3"],
    "resuming with other layers": [*TRAIN, "--run-dir=R", "--resume", "--network.layers=auto-4-auto"],
    "resuming with data that do not exist": ["train", "--resume=R", "--data.train=TYPO.csv"],
    "resuming with other data": ["train", "--resume=R", "--data.train=one.csv", "--run.iterations=5"],
    "resuming automatically with bad data": over("--resume=auto", "--data.train=TYPO.csv", "--method.C=3"),
    "resuming another run into this one": ["train", "--resume=other", "--run-dir=R"],
    # jobs
    "a job without sbatch": [*SUBMIT, "--cluster=slurm.toml"],
    "a job that is refused": [*SUBMIT, "--cluster=slurm.toml"],
    "a job of a cluster that does not exist": [*SUBMIT, "--cluster=TYPO.toml"],
    "a job whose file cannot be written": [*SUBMIT, "--cluster=here.toml"],
    "a job with too many ranks": [*SUBMIT, "--cluster=here.toml", "--ranks=9"],
    "a job with other splits": [*SUBMIT, "--cluster=wide.toml", "--ranks=3", "--set=partition.splits=1-2-1"],
    "a job without leave": [*SUBMIT[:-1], "--cluster=here.toml"],
    # other commands into the old run
    "a comparison of directions that do not exist": ["compare", "--directions=newton", "--set=data.train=table.csv",
                                                     "--run-dir=R", "--set=run.overwrite=true"],
    "a comparison over an old one": ["compare", "--directions=sgd", "--set=data.train=TYPO.csv", "--run-dir=R",
                                     "--set=run.overwrite=true"],
    "a store into the run": ["convert", "table.csv", "R", "--overwrite"],
    "a store over its input": ["convert", "table.csv", "table.csv", "--overwrite"],
    "a store of a store": ["convert", "store", "store", "--overwrite"],
    "a store over a part of itself": ["convert", "store/labels.npy", "store", "--overwrite"],
    "predictions over their input": ["predict", "R", "table.csv", "--out=table.csv"],
    "predictions over a linked input": ["predict", "R", "table.csv", "--out=table.link"],
    "predictions into a store": ["predict", "R", "store", "--out=store/store.json"],
    "predictions over the model": ["predict", "R", "table.csv", "--out=R/model.safetensors"],
    "predictions over metrics of another run": ["predict", "R", "table.csv", "--out=other/metrics.jsonl"],
    "metrics over the data": ["evaluate", "R", "table.csv", "--json=table.csv"],
    "metrics over the run's": ["evaluate", "R", "table.csv", "--json=R/metrics.jsonl"],
    "a page over another run's": ["report", "R", "--out=other/report.html"],
    "a page over the model": ["report", "R", "--out=link/model.safetensors"],
    "a text over its model": ["export", "linear.model", "linear.model"],
    "a model over its data": ["distnewton-train", "table.csv", "table.csv"],
    "a model over a run's": ["distnewton-train", "table.csv", "R/model.safetensors"],
    "labels over their model": ["distnewton-predict", "table.csv", "linear.model", "linear.model"],
    "labels over their data": ["distnewton-predict", "table.csv", "R", "table.csv"],
    "a study over runs that exist": ["bench", "scaling", "--set=data.train=TYPO.csv", "--run-dir=R"],
}  # fmt: skip
RESULTS = ("model.safetensors", "metrics.jsonl", "predictions.json", "end.json", "report.html", "checkpoints/")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A folder with data, cluster files, two runs that have ended, a linear model and a store."""
    folder = tmp_path_factory.mktemp("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in FILES.items():
            Path(name).write_text(text)
        done = [call(*TRAIN, f"--run-dir={name}", "--run.iterations=2", "--run.checkpoint_minutes=0")
                for name in ("R", "other")]  # fmt: skip
        done += [call("report", "other"), call("convert", "table.csv", "store")]
        done += [call(*TRAIN, "--network.layers=auto-auto", "--run-dir=linear", "--run.iterations=1")]
        assert [one.returncode for one in done] == [0] * len(done), done
        shutil.copy("linear/model.safetensors", "linear.model")
    return folder


@pytest.fixture
def place(old, tmp_path, monkeypatch):
    """A working folder with a copy of it, and links."""
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("R")
    Path("table.link").symlink_to("table.csv")
    Path("bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def contents(folder):
    """Bytes of all files, by name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def kept(before):
    """What of the files no start may change: all but what a job writes, and what is kept of failures."""
    return {name: data for name, data in before.items() if "/errors/" not in name and "/job" not in name}


def start(arguments):
    """Call a command; returns its exit code and what it said."""
    if arguments[0].startswith("distnewton-"):
        try:
            return getattr(liblinear_commands, arguments[0].removeprefix("distnewton-"))(arguments[1:]), ""
        except DistNewtonError as error:
            return error.exit_code, str(error)
    done = call(*arguments)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", STARTS)
def test_a_bad_start_leaves_the_old_run(place, name):
    if name == "a job whose file cannot be written":
        (place / "R/job.sh").mkdir()
    if name == "a job that is refused":
        shutil.copy("sbatch", "bin/sbatch")
        Path("bin/sbatch").chmod(0o755)
    before = contents(place)
    code, said = start(STARTS[name])
    assert code not in (0, 70), said
    assert kept(contents(place)) == kept(before)


def test_resuming_automatically_deletes_no_model(place):
    shutil.rmtree("R/checkpoints")
    before = contents(place)
    code, said = start([*TRAIN, "--run-dir=R", "--resume=auto"])
    assert (code, "holds a finished run without checkpoints" in said) == (73, True)
    assert contents(place) == before


@launching
@pytest.mark.parametrize("again", [False, True])
def test_a_job_whose_data_have_moved(place, monkeypatch, again):
    """A job over an old run, run at once, and one that is started again."""
    monkeypatch.undo()
    submit = [*SUBMIT, "--cluster=here.toml", "--set=network.layers=auto-3-auto", "--set=run.iterations=2"]
    if again:
        done = run(distnewton(*submit), cwd=place)
        assert done.returncode == 0, done.stderr
    before = contents(place)
    os.rename(place / "table.csv", place / "moved.csv")
    done = run(["bash", "R/job.sh"] if again else distnewton(*submit), cwd=place)
    assert done.returncode == 66, done.stderr
    os.rename(place / "moved.csv", place / "table.csv")
    assert kept(contents(place)) == kept(before)

"""No code from data: what the package never calls, read off its syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import distnewton

PACKAGE = Path(distnewton.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__"}
# mpi4py's lower-case methods pickle; Communicator has an allgather of its own, for numbers
PICKLING = {
    "bcast", "gather", "scatter", "allreduce", "reduce", "alltoall", "scan", "exscan", "send", "recv", "isend", "irecv",
    "ssend", "bsend", "sendrecv", "issend", "ibsend",
}  # fmt: skip
COMMUNICATORS = {"mpi", "comm", "_comm", "node", "world", "COMM_WORLD"}


def last_name(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def violations(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"calls {node.func.id}"
        if isinstance(node.func, ast.Attribute):
            of = last_name(node.func.value)
            if node.func.attr in PICKLING and of in COMMUNICATORS:
                yield f"calls {of}.{node.func.attr}, which pickles"
            if (of, node.func.attr) in {("mpi", "allgather"), ("torch", "load"), ("os", "system"), ("os", "popen")}:
                yield f"calls {of}.{node.func.attr}"
        for keyword in node.keywords:
            if keyword.arg in {"allow_pickle", "shell"} and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"passes {keyword.arg}"


def test_no_module_runs_code_from_data():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    found = [f"{file.relative_to(PACKAGE)}: {v}" for file in files for v in violations(ast.parse(file.read_text()))]
    assert found == []


def test_the_check_finds_what_it_looks_for():
    bad = """
import pickle
from marshal import loads
eval("1")
np.load(f, allow_pickle=True)
subprocess.run(c, shell=True)
comm.bcast(1)
self.mpi.allgather(1)
"""
    assert len(list(violations(ast.parse(bad)))) == 7
    fine = "comm.allgather(x)\nnp.load(f, allow_pickle=False)\nself._mailbox.send(1)\nre.compile('a')\n"
    assert list(violations(ast.parse(fine))) == []


def test_only_the_package_of_messages_opens_no_port():
    # of its own: asking whether a host answers connects, and listens for nothing
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        # signatures of functions have a bind, too
        opening = {"listen", "bind"} if "socket" in text else {"listen"}
        calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)]
        assert not [node.attr for node in calls if node.attr in opening], file

"""Whatever the package takes from cupy and NCCL exists there, and takes the arguments that it is given."""

from __future__ import annotations

import ast
from functools import reduce

import cupy_signatures
import pytest
from cupy_signatures import FROM_IMPORTS, OF_OBJECTS, PACKAGE, TABLE, installed, inventory, names, signature
from strict_device import LIBRARY


def problems(calls):
    """What is wrong with calls, by the table."""
    found = []
    for name, uses in calls.items():
        try:
            accepts = signature(name)
        except KeyError:
            found.append(f"cupy has no {name}, or it is not in {TABLE.name}")
            continue
        for where, n_args, keywords in uses:
            try:
                assert accepts is not None, "is no function"
                accepts.bind(*[None] * n_args, **dict.fromkeys(keywords))
            except (TypeError, AssertionError) as error:
                found.append(f"{where}: {name}: {error}")
    return found


def test_every_call_of_cupy_has_a_checked_signature():
    calls = inventory()
    assert problems(calls) == []
    assert len(calls) > 60
    # nothing comes in by a way that the inventory does not see
    seen = {f"{name.rpartition('.')[0]}" for name in FROM_IMPORTS}
    allowed = {"cupy", "cupyx", "cupy.cuda", "cupyx.scipy.sparse", "cupy._core", *seen}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            strange = [name for name in modules if name.partition(".")[0] in ("cupy", "cupyx") and name not in allowed]
            assert not strange, (file, strange)


def test_the_stand_in_for_a_device_has_what_the_package_calls():
    """Apart from what makes a GPU a device, in modules that know cupy by name."""
    own = ("backend/gpu.py", "parallel/transport.py", "launch/devices.py")
    missing = []
    for name, uses in inventory().items():
        if any(not where.startswith(own) for where, *_ in uses):
            try:
                reduce(getattr, name.split(".")[1:], LIBRARY.xp)
            except AttributeError:
                missing.append((name, uses))
    assert missing == []


@pytest.mark.parametrize(("name", "use"), [
    ("cupy.matvec", (2, [])), ("cupy.cumsum", (1, ["where"])), ("cupy.vdot", (3, [])),
    ("cupy.cuda.nccl.NcclCommunicator", (2, [])), ("cupyx.errstate", (1, [])), ("cupy.nan", (1, [])),
])  # fmt: skip
def test_what_cupy_does_not_take_is_found(name, use):
    assert len(problems({name: [("file.py:1", *use)]})) == 1


def test_a_call_in_the_text_is_found(monkeypatch, tmp_path):
    (tmp_path / "a.py").write_text("def f(xp, Z):\n    xp.linalg.inv(Z)\n    return namespace(Z).sum(Z, where=1)\n")
    monkeypatch.setattr(cupy_signatures, "PACKAGE", tmp_path)
    found = inventory.__wrapped__()
    assert found["cupy.linalg.inv"] == [("a.py:2", 1, [])]
    assert problems(found) == ["a.py:3: cupy.sum: got an unexpected keyword argument 'where'"]


def test_methods_of_streams_and_communicators_take_what_they_are_given():
    """Their objects are seen by nobody in the text; the calls of the transport by NCCL and of the backend are these."""
    calls = {
        "allReduce": (6, []), "destroy": (0, []), "synchronize": (0, []), "wait_event": (1, []), "record": (0, []),
        "use": (0, []), "set_limit": (0, ["size"]), "set": (1, []), "multiply": (1, []), "tocsr": (0, []),
        "toarray": (0, []), "get": (0, ["order"]),
    }  # fmt: skip
    owners = {method: owner for owner, methods in OF_OBJECTS.items() for method in methods}
    assert owners.keys() == calls.keys()
    assert problems({f"{owners[name]}.{name}": [("", *use)] for name, use in calls.items()}) == []


def test_the_table_is_that_of_the_cupy_that_is_installed():
    """No GPU is needed for that."""
    for module in ("cupy", "cupyx.scipy.sparse", "cupyx.scipy.linalg", "cupy_backends.cuda.libs.nccl"):
        pytest.importorskip(module, reason="cupy or NCCL is not installed", exc_type=ImportError)
    there = installed()["names"]
    assert there.keys() == set(names())
    assert [name for name in there if there[name] is not None and signature(name) is None] == []
    assert problems(inventory()) == []

"""What the package calls of cupy, with which arguments, and the signatures of cupy 14 for it.

``PYTHONPATH=tests python tests/cupy_signatures.py`` writes the table anew, where cupy and NCCL are installed; a GPU
is not needed.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from functools import cache, reduce
from pathlib import Path

TABLE = Path(__file__).with_name("cupy_signatures.json")
PACKAGE = Path(__file__).parents[1] / "distnewton"
ROOTS = {"xp": "cupy", "cupy": "cupy", "_cupy": "cupy", "cupyx": "cupyx", "nccl": "cupy.cuda.nccl",
         "_nccl": "cupy.cuda.nccl"}  # fmt: skip
"""How modules of cupy are called in the package."""
OF_OBJECTS = {
    "cupy.ndarray": ("get", "set"),
    "cupy.cuda.Stream": ("synchronize", "wait_event", "record"), "cupy.cuda.Device": ("use",),
    "cupy.cuda.MemoryPool": ("set_limit",), "cupy.cuda.nccl.NcclCommunicator": ("allReduce", "destroy"),
    "cupyx.scipy.sparse.csr_matrix": ("multiply", "tocsr", "toarray"),
}  # fmt: skip
"""Of objects, whose types nobody sees in the text."""
FROM_IMPORTS = ("cupyx.scipy.linalg.solve_triangular",)


def _chain(node):
    """Names of an expression like ``self.xp.linalg.inv``; ``namespace(Z)`` is called xp."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        return [node.id, *names]
    is_namespace = isinstance(node, ast.Call) and (_chain(node.func) or [""])[-1] == "namespace"
    return ["xp" if is_namespace else "?", *names]


def _called(node):
    """The name in cupy of an expression; None where it is not of cupy."""
    names = _chain(node)
    place = next((k for k, name in enumerate(names[:-1]) if name in ROOTS), None)
    return None if place is None else ".".join([ROOTS[names[place]], *names[place + 1 :]])


@cache
def inventory():
    """Whatever the package takes from cupy: for each name the calls, as (file:line, number of arguments, keywords).

    ``backend/cpu.py`` has numpy alone. A call with ``*arguments`` counts as one of that many as stand there.
    """
    found = {name: [] for name in FROM_IMPORTS}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name == "cpu.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (name := _called(node)):
                found.setdefault(name, [])
            if isinstance(node, ast.Call) and (name := _called(node.func)):
                keywords = [keyword.arg for keyword in node.keywords]
                where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
                found.setdefault(name, []).append((where, len(node.args), keywords))
    return found


def signature_text(function):
    """Parameters of a function of Python or Cython, without types; all defaults are None."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        text = (function.__doc__ or "").split("\n\n")[0].replace("\\", "")
        inner = re.search(r"\((.*)\)", text)[1]
        # of `int device=0` the name, of `size_t count` too
        names = [re.sub(r"=.*", "=None", part).strip().split(" ")[-1] for part in re.split(r",\s*", inner) if part]
        return f"({', '.join(name for name in names if name != 'self')})"
    plain = [
        parameter.replace(annotation=parameter.empty, default=parameter.default if parameter.default is parameter.empty
                          else None)
        for parameter in parameters if parameter.name != "self"
    ]  # fmt: skip
    return str(inspect.Signature(plain))


@cache
def signature(name):
    """The signature of a name in cupy, from the table; None for what is no function."""
    text = json.loads(TABLE.read_text())["names"][name]
    return None if text is None else inspect.signature(eval(f"lambda {text[1:-1]}: None"))


def names():
    """All names of the table: those of the stand-in for a device, too."""
    from strict_device import FUNCTIONS, METHODS

    methods = OF_OBJECTS | {"cupy.ndarray": (*METHODS, *OF_OBJECTS["cupy.ndarray"])}
    of_objects = {f"{owner}.{method}" for owner, names in methods.items() for method in names}
    return sorted({*inventory(), *of_objects, *(f"cupy.{name}" for name in FUNCTIONS)})


def installed():
    """The table of the cupy that is installed."""
    import cupy
    import cupyx
    import cupyx.scipy.linalg  # noqa: F401
    import cupyx.scipy.sparse  # noqa: F401
    from cupy.cuda import nccl

    def text_of(name):
        root, *rest = name.split(".")
        if rest[:2] == ["cuda", "nccl"]:
            value = reduce(getattr, rest[2:], nccl)
        else:
            value = reduce(getattr, rest, {"cupy": cupy, "cupyx": cupyx}[root])
        is_exception = isinstance(value, type) and issubclass(value, Exception)
        return signature_text(value) if callable(value) and not is_exception else None

    return {"cupy": cupy.__version__, "names": {name: text_of(name) for name in names()}}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(installed(), indent=0) + "\n")

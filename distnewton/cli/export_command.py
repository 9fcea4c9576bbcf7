"""What the command ``export`` does."""

from __future__ import annotations

import argparse
from typing import Any

from distnewton.errors import UsageError


def add_export(commands: Any) -> None:
    """Add the command line of ``export``."""
    export = commands.add_parser(
        "export",
        help="write a trained model in another form",
        usage="distnewton export MODEL FILE.onnx|FILE.model",
    )
    export.add_argument("run", metavar="MODEL", help="run folder, or model file")
    export.add_argument(
        "file", metavar="FILE", help="file to write, for raw features: ONNX, or with .model LIBLINEAR's text, for "
        "networks without hidden layers"
    )  # fmt: skip


def export(options: argparse.Namespace) -> int:
    """Write the file, without MPI, on the first rank alone."""
    from distnewton.launch.startup import launched_rank

    if not options.file.endswith((".onnx", ".model")):
        raise UsageError(f"export writes FILE.onnx or FILE.model, got {options.file}", collective=True)
    if launched_rank() == 0:
        if options.file.endswith(".onnx"):
            from distnewton.onnx import save_onnx as save
        else:
            from distnewton.liblinear import save_liblinear as save
        save(options.run, options.file)
        print(f"exported to {options.file}")
    return 0

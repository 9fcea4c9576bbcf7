"""What the command ``export`` does."""

from __future__ import annotations

import argparse
from typing import Any

from distnewton.errors import UsageError


def add_export(commands: Any) -> None:
    """Add the command line of ``export``."""
    export = commands.add_parser(
        "export",
        help="write a trained model as an ONNX file",
        usage="distnewton export MODEL FILE.onnx",
    )
    export.add_argument("run", metavar="MODEL", help="run folder, or model file")
    export.add_argument("file", metavar="FILE.onnx", help="file to write: raw features in, outputs and labels out")


def export(options: argparse.Namespace) -> int:
    """Write the file, without MPI, on the first rank alone."""
    from distnewton.parallel.launch import launched_rank

    if not options.file.endswith(".onnx"):
        raise UsageError(f"export writes FILE.onnx, got {options.file}", agreed=True)
    if launched_rank() == 0:
        from distnewton.onnx import save_onnx

        save_onnx(options.run, options.file)
        print(f"exported to {options.file}")
    return 0

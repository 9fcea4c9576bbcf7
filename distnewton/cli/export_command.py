"""The command ``export``."""

from __future__ import annotations

import argparse

from distnewton.cli.command import argument, command
from distnewton.cli.results import check_result
from distnewton.cli.streams import results_go_to_files
from distnewton.errors import UsageError


@command(
    "export",
    "write a trained model as ONNX or as LIBLINEAR's text",
    argument("run", metavar="MODEL", help="run folder or model file"),
    argument(
        "file", metavar="FILE", help="FILE.onnx, or FILE.model for networks without hidden layers (LIBLINEAR's text); "
        "either takes raw features"
    ),
    usage="MODEL FILE.onnx|FILE.model",
    first_rank=True,
)  # fmt: skip
def export(options: argparse.Namespace) -> int:
    """Write the file; MPI is not used."""
    if options.file.endswith(".onnx"):
        from distnewton.onnx import save_onnx as save
    elif options.file.endswith(".model"):
        from distnewton.liblinear import save_liblinear as save
    else:
        torch = "; torch needs no export: safetensors.torch.load_file reads model.safetensors as it is"
        advice = torch if options.file.endswith((".pt", ".pth", ".safetensors")) else ""
        raise UsageError(f"export writes FILE.onnx or FILE.model, got {options.file}{advice}", collective=True)
    from distnewton.models.loading import load_serial_model

    check_result(options.file, model=options.run, makes_folder=False)
    results_go_to_files()
    model = load_serial_model(options.run)
    save(model, options.file)
    print(f"exported to {options.file}")
    if model.names is not None and model.names.encoding is not None:
        columns = "; ".join(model.names.inputs)
        print(f"its {model.names.encoding.n_features} features are the encoded columns, in this order: {columns}")
    return 0

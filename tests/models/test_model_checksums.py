"""A model file that changed after it was written is refused, and has the mode that the umask asks for."""

from __future__ import annotations

import json
import os
import zlib

import numpy as np
import pytest
from models.test_model import problem, read_file, trained, without_checksums

import distnewton
from distnewton.errors import DataError, UsageError

N_FLIPS = int(os.environ.get("DISTNEWTON_FLIPS", "40"))
"""Bits to flip; by hand: ``DISTNEWTON_FLIPS=1000 python -m pytest tests/models/test_model_checksums.py``."""


@pytest.fixture
def model_file(world, folder):
    trained(world, problem()[1], scale="standard", dtype="float32", iterations=0).save(folder / "m")
    return folder / "m"


def rewritten(path, tensors, header):
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata={"distnewton": header if isinstance(header, str) else json.dumps(header)})
    return path


def test_flipped_bits_are_told(model_file):
    distnewton.load_model(model_file)
    whole, random = model_file.read_bytes(), np.random.default_rng(3)
    for bit in random.choice(8 * len(whole), N_FLIPS, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        model_file.write_bytes(damaged)
        with pytest.raises(DataError):
            distnewton.load_model(model_file)


@pytest.mark.mpi(min_size=1, sizes=(3,))
def test_all_ranks_refuse_a_flipped_weight(world, folder, model_file):
    if world.rank == 0:
        whole = bytearray(model_file.read_bytes())
        whole[-1] ^= 1
        model_file.write_bytes(whole)
    world.barrier()
    with pytest.raises(DataError, match="changed or damaged"):
        distnewton.load_model(model_file, world)


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
def test_the_ranks_together_compare_all_sections(world, folder, monkeypatch):
    monkeypatch.setattr("distnewton.models.model_file._SECTION", 16)
    trained(world, problem()[1], dtype="float32", iterations=0).save(folder / "m")
    whole = (folder / "m").read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - first == 4 * sum((a + 1) * b for a, b in ((6, 5), (5, 4), (4, 3)))
    for at in range(first, len(whole), 12):
        world.barrier()
        if world.rank == 0:
            damaged = bytearray(whole)
            damaged[at] ^= 1
            (folder / "m").write_bytes(damaged)
        world.barrier()
        with pytest.raises(DataError, match="changed or damaged") as caught:
            distnewton.load_model(folder / "m", world)
        assert not world.any(not caught.value.collective)


def test_a_missing_checksum_is_damage(folder, model_file):
    tensors, header = read_file(model_file)
    of_tensors = {key: value for key, value in header.items() if key != "header_crc32"}
    plain = json.dumps(without_checksums(header)).removesuffix("}")
    of_header = f'{plain}, "header_crc32": {zlib.crc32(plain.encode())}}}'
    for content in (of_tensors, of_header):
        with pytest.raises(DataError, match="its checksum does not match"):
            distnewton.load_model(rewritten(folder / "bad", tensors, content))


def test_files_of_one_model_are_equal(world, folder):
    model = trained(world, problem()[1], iterations=0)
    for name in range(8):
        model.save(folder / str(name))
    assert len({(folder / str(name)).read_bytes() for name in range(8)}) == 1


def test_files_without_checksums_are_read(folder, model_file):
    tensors, header = read_file(model_file)
    old = distnewton.load_model(rewritten(folder / "old", tensors, without_checksums(header)))
    assert old.architecture == distnewton.load_model(model_file).architecture


def test_weights_that_are_not_finite_are_refused(folder, model_file):
    tensors, header = read_file(model_file)
    tensors["2.bias"][1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        distnewton.load_model(rewritten(folder / "bad", tensors, without_checksums(header)))


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_models_have_the_mode_of_the_umask(world, folder, umask):
    model, before = trained(world, problem()[1], iterations=0), os.umask(umask)
    try:
        model.save(folder / "m")
    finally:
        os.umask(before)
    assert (folder / "m").stat().st_mode & 0o777 == 0o666 & ~umask


def test_export_to_torch_says_that_none_is_needed():
    import argparse

    from distnewton.cli.export_command import export

    with pytest.raises(UsageError, match=r"safetensors\.torch\.load_file reads model\.safetensors"):
        export(argparse.Namespace(run="m", file="x.pt"))

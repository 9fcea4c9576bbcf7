"""Damage of every kind is found and named, and an older checkpoint takes over; nothing outside is ever opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from resumed import blobs, free, settings

import distnewton
from distnewton.checkpoint.folder import list_checkpoints, prune, remove_leftovers
from distnewton.checkpoint.manifest import FORMAT_VERSION, MANIFEST_FILE, parse
from distnewton.checkpoint.reading import choose_checkpoint
from distnewton.errors import DataError, MissingInputError
from distnewton.parallel.collectives import Communicator

PART = "part-0000.safetensors"


def train(folder, iterations=3, **options):
    config = settings(
        {"direction": "block_diagonal", "preconditioner": "kfac"},
        iterations=iterations, run={"checkpoint_minutes": 0.0, "seed": options.pop("seed", 0)},
    )  # fmt: skip
    result = distnewton.train(config, None, train_data=distnewton.ArraySource(*blobs()), checkpoints=folder, **options)
    free(result)
    return result


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Checkpoints of iterations 1 to 3."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    train(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "c")


def choose(folder):
    path, manifest, notes = choose_checkpoint(folder, Communicator())
    return path.name, manifest.iteration, notes


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def reseal(file, **changes):
    """Change values of a manifest as an honest writer would, its hash included."""
    values = {k: v for k, v in json.loads(file.read_text()).items() if k != "sha256"} | changes

    def text(tree):
        return json.dumps(tree, sort_keys=True, indent=1) + "\n"

    file.write_text(text({**values, "sha256": hashlib.sha256(text(values).encode()).hexdigest()}))


def truncate(step):
    os.truncate(step / PART, (step / PART).stat().st_size - 1)


def grow(step):
    with (step / PART).open("ab") as file:
        file.write(b"\0")


def flip_in_data(step):
    flip(step / PART, 8 * (step / PART).stat().st_size - 3)


def flip_in_name(step):
    data = (step / PART).read_bytes()
    flip(step / PART, 8 * data.index(b"velocity" if b"velocity" in data else b"params"))


def zero_page(step):
    data = (step / PART).read_bytes()
    (step / PART).write_bytes(data[:-512] + bytes(512))


def missing_part(step):
    (step / PART).unlink()


def swapped(step):
    other = step.parent / "step-000002" / PART
    data = other.read_bytes()
    other.write_bytes((step / PART).read_bytes())
    (step / PART).write_bytes(data)


def extra_part(step):
    shutil.copy(step / PART, step / "part-0001.safetensors")


def part_of_another_run(step):
    train(step.parent.parent / "other", seed=5)
    shutil.copy(step.parent.parent / "other" / "step-000003" / PART, step / PART)


def old_manifest(step):
    shutil.copy(step.parent / "step-000002" / MANIFEST_FILE, step / MANIFEST_FILE)


def wrong_hash(step):
    text = (step / MANIFEST_FILE).read_text()
    known = json.loads(text)["parts"][0]["sha256"]
    (step / MANIFEST_FILE).write_text(text.replace(known, known[::-1]))


def wrong_hash_sealed(step):
    parts = json.loads((step / MANIFEST_FILE).read_text())["parts"]
    parts[0]["sha256"] = parts[0]["sha256"][::-1]
    reseal(step / MANIFEST_FILE, parts=parts)


def empty_part(step):
    (step / PART).write_bytes(b"")


def empty_manifest(step):
    (step / MANIFEST_FILE).write_bytes(b"")


def cut_manifest(step):
    os.truncate(step / MANIFEST_FILE, 700)


def no_manifest(step):
    (step / MANIFEST_FILE).unlink()


def part_is_a_folder(step):
    (step / PART).unlink()
    (step / PART).mkdir()


DAMAGE = {
    truncate: f"step-000003/{PART} has ",
    grow: f"step-000003/{PART} has ",
    flip_in_data: f"step-000003/{PART} is damaged",
    flip_in_name: f"step-000003/{PART} is damaged",
    zero_page: f"step-000003/{PART} is damaged",
    missing_part: f"step-000003/{PART}: No such file",
    extra_part: "step-000003/part-0001.safetensors is a part that the manifest does not know",
    part_of_another_run: f"step-000003/{PART} is damaged",
    old_manifest: "step-000003 holds the manifest of iteration 2",
    wrong_hash: "step-000003/manifest.json is damaged",
    wrong_hash_sealed: f"step-000003/{PART} is damaged",
    empty_part: f"step-000003/{PART} has 0 bytes",
    empty_manifest: "step-000003/manifest.json is damaged",
    cut_manifest: "step-000003/manifest.json is damaged",
    no_manifest: "step-000003/manifest.json: No such file",
    part_is_a_folder: f"step-000003/{PART}: Is a directory",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(folder, damage):
    damage(folder / "step-000003")
    name, iteration, notes = choose(folder)
    assert (name, iteration) == ("step-000002", 2)
    assert [note for note in notes if DAMAGE[damage] in note], notes
    result = train(folder, iterations=4, resume=True)
    assert [record.iteration for record in result.history] == [2, 3, 4]
    # the damaged one keeps its name, and the new one of its iteration gets another
    assert (folder / "step-000003-2" / MANIFEST_FILE).exists()
    assert any("a damaged checkpoint is skipped" in note for note in result.summary.notes)


def test_swapped_parts_spoil_both(folder):
    swapped(folder / "step-000003")
    assert choose(folder)[:2] == ("step-000001", 1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_part_without_permission_is_named(folder):
    for path in (*folder.parents, folder, folder / "step-000003", folder / "step-000002"):
        if path.stat().st_uid == 0 and path not in folder.parents[3:]:
            path.chmod(0o755)
    (folder / "step-000003" / PART).chmod(0)
    # Python's modules must be readable, too: they are loaded before
    choose(folder)
    blocked = [path for path in folder.parents if not path.stat().st_mode & 0o001]
    if blocked:
        pytest.skip(f"{blocked[0]} is closed to others")
    os.seteuid(65534)
    try:
        name, _, notes = choose(folder)
    finally:
        os.seteuid(0)
    assert name == "step-000002"
    assert any(f"step-000003/{PART}: Permission denied" in note for note in notes)


def test_where_all_are_damaged_nothing_begins_anew(folder):
    for step in list(folder.iterdir()):
        truncate(step)
    for resume in (True, "auto"):
        with pytest.raises(DataError, match="holds no undamaged checkpoint") as caught:
            train(folder, resume=resume)
        assert str(caught.value).count("has ") >= 3


def test_a_newer_format_is_not_skipped(folder):
    reseal(folder / "step-000003" / MANIFEST_FILE, format_version=FORMAT_VERSION + 1, writer="distnewton 9.9")
    with pytest.raises(DataError, match=r"written by 'distnewton 9.9'.*update distnewton") as caught:
        train(folder, resume=True)
    assert caught.value.exit_code == 65


def test_each_of_1000_flipped_bits_is_found(folder):
    for step in list(folder.iterdir())[:-1]:
        shutil.rmtree(step)
    (only,) = folder.iterdir()
    files = sorted(only.iterdir())
    sizes = [8 * file.stat().st_size for file in files]
    n_found = 0
    for bit in np.random.default_rng(1).integers(sum(sizes), size=1000):
        i_file = int(np.searchsorted(np.cumsum(sizes), bit, side="right"))
        position = int(bit) - sum(sizes[:i_file])
        flip(files[i_file], position)
        with pytest.raises(DataError):
            choose(folder)
        n_found += 1
        flip(files[i_file], position)
    assert n_found == 1000
    assert choose(folder)[0] == only.name


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "part-0000.safetensors/../../x", "part-0.safetensors", ""])
def test_names_in_a_manifest_stay_inside(folder, name):
    file = folder / "step-000003" / MANIFEST_FILE
    parts = json.loads(file.read_text())["parts"]
    parts[0]["name"] = name
    reseal(file, parts=parts)
    with pytest.raises(DataError, match="is not a manifest of distnewton"):
        parse(file.read_bytes(), "m")
    assert choose(folder)[1] == 2


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"[" * 100_000, b'{"a": NaN}', b"\xff", b"null", b"{" + b" " * 10_000_000 + b"}"],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(DataError):
        parse(data, "m")


def test_nothing_to_go_on_from(tmp_path):
    with pytest.raises(MissingInputError, match="--resume=auto starts anew"):
        train(tmp_path / "c", resume=True)
    result = train(tmp_path / "c", resume="auto")
    assert any("starts anew" in note for note in result.summary.notes)
    assert len(result.history) == 4


def test_only_what_is_ours_is_removed(folder):
    (folder / "step-000009.part").mkdir()
    (folder / "step-000009.part" / PART).write_bytes(b"cut")
    (folder / "step-000010.part").mkdir()
    (folder / "step-000010.part" / "thesis.tex").write_text("years of work")
    (folder / "photos.part").mkdir()
    (folder / "step-000007").mkdir()
    assert len(remove_leftovers(folder)) == 1
    kept = {"step-000010.part", "photos.part", "step-000007", *(f"step-00000{k}" for k in (1, 2, 3))}
    assert {path.name for path in folder.iterdir()} == kept
    prune(folder, "0" * 16, 0, lower_is_better=False)
    assert {path.name for path in folder.iterdir()} == kept


def test_the_last_ones_stay_and_the_best(folder):
    run = list_checkpoints(folder)[0].manifest.run
    for k, metric in ((1, 0.9), (2, 0.5), (3, 0.7)):
        reseal(folder / f"step-00000{k}" / MANIFEST_FILE, metric=metric)
    prune(folder, run, 1, lower_is_better=False)
    assert {path.name for path in folder.iterdir()} == {"step-000001", "step-000003"}
    prune(folder, run, 1, lower_is_better=True)
    assert {path.name for path in folder.iterdir()} == {"step-000003"}

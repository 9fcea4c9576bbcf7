"""Images as a data set: values, classes and order, folders in folders, agreement of the ranks."""

from __future__ import annotations

import sys
import tarfile
import zipfile

import numpy as np
import pytest
from image_files import HEIGHT, PACKERS, WIDTH, archive_of, coded, error_of, folder_of, member, pixels, pngs, stored

from distnewton.data.formats import images
from distnewton.data.formats.pictures import decode
from distnewton.data.partitioned import open_and_describe
from distnewton.data.scaled import FeatureReader
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError, MissingExtraError, MissingInputError
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition

mpi = pytest.mark.mpi(min_size=1)
NAMES = ["b cat/10.png", "b cat/9.png", "ä/x.PNG", "B/1.png", "b/1.png"]
SORTED = ["B/1.png", "b/1.png", "b cat/10.png", "b cat/9.png", "ä/x.PNG"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_images_without_labels_stand_anywhere(tmp_path, kind):
    names = ["z.png", "new/b/1.png", "new/a.png"]
    source = open_data(stored(tmp_path, kind, pngs(names, 3)), labels="none")
    found = source.describe()
    assert not found.labelled
    assert np.isnan(found.labels).all()
    assert (found.n_samples, found.image_shape, found.notes) == (3, (3, HEIGHT, WIDTH), [])
    expected = np.stack([pixels(name, 3).ravel() for name in ["new/a.png", "new/b/1.png", "z.png"]])
    np.testing.assert_array_equal(source.read(0, expected.shape[1]), expected)


@pytest.mark.parametrize("kind", ["folder", *PACKERS])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kept_bytes", [0, 100, 1 << 20])
def test_values_classes_and_order(tmp_path, kind, channels, kept_bytes, monkeypatch):
    monkeypatch.setattr(images, "KEPT_BYTES", kept_bytes)
    path = stored(tmp_path, kind, pngs(NAMES, channels))
    expected = np.stack([pixels(name, channels).ravel() for name in SORTED])
    source, other = open_data(path), open_data(path, format="images", n_features=expected.shape[1])
    found = source.describe()
    assert (found.format, found.n_samples, found.n_features) == ("images", *expected.shape)
    assert found.image_shape == (channels, HEIGHT, WIDTH)
    assert found.labels.tolist() == ["B", "b", "b cat", "b cat", "ä"]
    assert found.n_nonzeros == np.count_nonzero(expected)
    assert found.notes == []
    n = expected.shape[1]
    for start, stop, dtype in [(0, n, "f4"), (0, n, "f8"), (HEIGHT * WIDTH, n, "f4"), (2, 7, "f8"), (n, n, "f4")]:
        for reader in (source, other):  # described, and not
            part = reader.read(start, stop, dtype)
            assert part.dtype == dtype
            assert part.flags.c_contiguous
            np.testing.assert_array_equal(part, expected[:, start:stop])
    with pytest.raises(ValueError, match="requested"):
        source.read(0, n + 1)
    assert source.locate(2).endswith("b cat/10.png")
    assert open_data(path).locate(0).endswith("/set/B/1.png" if kind == "folder" else "/set:B/1.png")


@pytest.mark.parametrize(("kept_bytes", "n_decoded"), [(1 << 20, [5, 5, 10]), (5 * 45, [5, 5, 10]), (224, [5, 10, 15])])
def test_each_image_is_decoded_once_a_call(tmp_path, monkeypatch, kept_bytes, n_decoded):
    monkeypatch.setattr(images, "KEPT_BYTES", kept_bytes)
    decoded = []
    monkeypatch.setattr(images, "decode", lambda name, data: decoded.append(name) or decode(name, data))
    source = open_data(archive_of(tmp_path / "set", pngs(NAMES)))
    counts = []
    for step in (source.describe, lambda: source.read(0, 45), lambda: source.read(0, 45)):
        step()
        counts.append(len(decoded))
    assert counts == n_decoded
    open_data(tmp_path / "set").read(0, 45)
    assert len(decoded) == n_decoded[-1] + 5


@pytest.mark.parametrize("kind", ["folder", "xz"])
def test_folders_of_a_set(tmp_path, kind):
    parts = pngs([f"all/{part}/{label}/1.png" for part in ("train", "test") for label in "ab"])
    path = stored(tmp_path, kind, parts | {"all/READ.me": b"", "all/test/note.txt": b""})
    message = str(error_of(path))
    assert "all/train/a/1.png" in message
    assert "all/test/a/1.png" in message
    assert f"choose one: {path}:all/test or {path}:all/train" in message
    for name in ("set:all/train", "set:all/train/", "set:./all/train"):
        source = open_data(name, data_dir=tmp_path)
        found = source.describe()
        assert (found.name, found.labels.tolist(), found.notes) == (f"{path}:all/train", ["a", "b"], [])
        np.testing.assert_array_equal(source.read(0, 45)[1], pixels("all/train/b/1.png").ravel())
    assert open_data(f"{path}:all/test").describe().notes == [
        "1 files that are not images are left out, such as all/test/note.txt"
    ]
    assert f"(did you mean {path}:all/train?)" in str(error_of(f"{path}:all/trian"))
    assert "(folders there: all, all/test, all/test/a, all/test/b, all/train, ...)" in str(error_of(f"{path}:zzz"))
    assert "1.png is in no folder that names its class" in str(error_of(f"{path}:all/test/a"))


@pytest.mark.parametrize("kind", ["folder", "xz"])
def test_class_folders_may_lie_deep_if_together(tmp_path, kind):
    path = stored(tmp_path, kind, pngs(["all/only/a/1.png", "all/only/b/1.png"]) | {"all/READ.me": b""})
    assert open_data(path).describe().labels.tolist() == ["a", "b"]


def test_names_with_a_colon(tmp_path):
    folder_of(tmp_path / "set:a", pngs(["x/1.png", "y/1.png"]))
    folder_of(tmp_path / "set", pngs(["a/u/1.png", "a/v/1.png"]))
    assert open_data("set:a", data_dir=tmp_path).describe().labels.tolist() == ["x", "y"]
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    with pytest.raises(ConfigError, match=r"t\.csv: is csv, but :.* names a folder in a folder or archive"):
        open_data("t.csv:train", data_dir=tmp_path)
    with pytest.raises(MissingInputError, match=r"sett: does not exist .*did you mean .*set"):
        open_data("sett:train", data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["folder", "gz"])
@pytest.mark.parametrize(("names", "message"), [
    (["1.png", "a/1.png"], "set: the image 1.png is in no folder that names its class; expected CLASS/FILE"),
    (["a/1.png", "b/c/1.png"], "in different folders (a/1.png and b/c/1.png)"),
    (["a/1.png", "a/c/1.png"], "in different folders"),
    (["train/a/1.png", "test/a/1.png"], "choose one: "),
    (["a/READ.me", "x.txt"], "set: holds no images, only other files such as a/READ.me; expected CLASS/FILE"),
    ([".a/1.png", "__MACOSX/a/1.png", "a/.1.png"], "set: holds no files; expected CLASS/FILE"),
])  # fmt: skip
def test_images_that_stand_in_the_wrong_place(tmp_path, kind, names, message):
    error = error_of(stored(tmp_path, kind, pngs(names)), format="images")
    assert isinstance(error, DataError)
    assert message in str(error)


def test_empty_folders_and_archives(tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    assert "empty: holds no files; expected CLASS/FILE" in str(error_of(tmp_path / "empty"))
    archive_of(tmp_path / "only.tar", {}, extra=[member("a", type=tarfile.DIRTYPE)])
    assert "only.tar: holds no files" in str(error_of(tmp_path / "only.tar"))


@pytest.mark.parametrize("kind", ["folder", "xz"])
def test_other_files_and_single_classes_are_told(tmp_path, kind):
    files = pngs(["a/1.png", "a/2.png"]) | {"READ.me": b"", "a/list.csv": b"1", ".DS_Store": b"", "a/.cache/1.png": b""}
    assert open_data(stored(tmp_path, kind, files)).describe().notes == [
        "2 files that are not images are left out, such as READ.me", "all images are of one class, a",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "gz"])
@pytest.mark.parametrize(("odd", "is_like"), [
    ((3, 4, 5), "RGB of 5 x 4 pixels"), ((3, 3, 4), "RGB of 4 x 3 pixels"), ((3, 5, 3), "RGB of 3 x 5 pixels"),
    ((1, 3, 5), "gray of 5 x 3 pixels"),
])  # fmt: skip
def test_an_image_unlike_the_first_is_named(tmp_path, kind, odd, is_like):
    files = pngs(["a/1.png", "b/2.png"]) | {"b/3.png": coded(pixels("x", *odd))} | pngs(["c/4.png"])
    path = stored(tmp_path, kind, files)
    with pytest.raises(DataError) as caught:
        open_data(path).read(0, 45)
    for message in (str(error_of(path)), str(caught.value)):
        assert ("set/b/3.png" if kind == "folder" else "set:b/3.png") in message
        assert f"is {is_like} (width x height), but the first image, a/1.png, is RGB of 5" in message


def test_options_that_do_not_fit(tmp_path):
    path = folder_of(tmp_path / "set", pngs(["a/1.png", "b/1.png"]))
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    with pytest.raises(ConfigError, match=r"folders of images are their labels"):
        open_data(path, label_column=0)
    with pytest.raises(ConfigError, match=r"folders of images are their labels"):
        open_data("set,t.csv", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"t\.csv: is csv, not images as requested"):
        open_data(tmp_path / "t.csv", format="images")
    with pytest.raises(DataError, match=r"t\.tar: is images, not npz as requested"):
        open_data(archive_of(tmp_path / "t.tar", pngs(["a/1.png"])), format="npz")
    with pytest.raises(MissingInputError, match="is a folder, expected a file"):
        open_data(path, format="idx")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(path / "a" / "1.png")
    with pytest.raises(DataError, match=r"got none; zip archives of other files are not read, so unpack it"):
        open_data(tmp_path / "t.zip")
    with pytest.raises(DataError, match=r"looks like a PNG image; readable are .*tar archives with images"):
        open_data(path / "a" / "1.png")
    for ignore in (False, True):  # an image that is cut is no image
        message = str(error_of(path, n_features=44, ignore_extra_features=ignore))
        assert "images are RGB of 5 x 3 pixels (width x height) and have 45 features, expected 44" in message


@pytest.mark.parametrize("kind", ["folder", "bz2"])
def test_images_that_change_while_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(images, "KEPT_BYTES", 0)
    (tmp_path / "new").mkdir()
    source = open_data(stored(tmp_path, kind, pngs(["a/1.png", "b/1.png"])))
    source.describe()
    if kind == "folder":
        (tmp_path / "set/a/1.png").rename(tmp_path / "set/a/2.png")
    else:
        stored(tmp_path, kind, pngs(["a/2.png", "b/1.png"]))
    with pytest.raises(DataError, match=r"set changed while it was read: a/2\.png is new"):
        source.read(0, 45)
    if kind == "folder":
        (tmp_path / "set/a/2.png").unlink()
    else:
        stored(tmp_path, kind, pngs(["b/1.png"]))
    with pytest.raises(DataError, match="set changed while it was read: 2 images, then 1"):
        source.read(0, 45)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    path = folder_of(tmp_path / "set", pngs(["a/1.png"]))
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image")
    with pytest.raises(MissingExtraError, match=r"reading images \(.*set:a\) needs .*'distnewton\[images\]'"):
        open_data(f"{path}:a")


@mpi
@pytest.mark.parametrize("kind", ["folder", "xz"])
def test_each_rank_reads_its_channels(world, folder, kind):
    if world.rank == 0:
        stored(folder, kind, pngs(NAMES))
    world.barrier()
    expected = np.stack([pixels(name).ravel() for name in SORTED])
    source, found = open_and_describe(world, lambda: open_data("set", data_dir=folder))
    # as many groups of channels as the ranks allow, each read by the ranks of its column of the grid
    n_groups = max(n for n in (1, 2, 3) if world.size % n == 0)
    splits = (n_groups, world.size // n_groups)
    with ProcessGrid(world, Partition((3, world.size), splits, features_per_unit=HEIGHT * WIDTH)) as grid:
        own = FeatureReader(grid, source, 5, np.float32, dense=True).read()
        start, stop = grid.feature_range()
        good = np.array_equal(own, expected[:, start:stop]) and found.image_shape == (3, HEIGHT, WIDTH)
        assert not world.any(not good)


@mpi
def test_all_ranks_agree_on_a_damaged_image(world, folder):
    if world.rank == 0:
        archive_of(folder / "set", pngs(["a/1.png"]) | {"b/1.png": b"\x89PNG"}, "gz")
    world.barrier()
    try:
        open_and_describe(world, lambda: open_data("set", data_dir=folder))
        message = None
    except DataError as error:
        message = str(error) if error.collective else None
    same = message == world.broadcast_json(message)
    assert not world.any(message is None or "set:b/1.png: is damaged" not in message or not same)

"""Folders and tar archives of images: nothing is unpacked, no link leads astray, damage is seen."""

from __future__ import annotations

import os
import tarfile

import numpy as np
import pytest
from image_files import PACKERS, archive_of, error_of, folder_of, member, pixels, pngs

from distnewton.data.sources import open_data
from distnewton.errors import DataError


@pytest.mark.parametrize(("header", "message"), [
    ({"name": "a/2.png", "type": tarfile.SYMTYPE, "linkname": "/etc"}, "set:a/2.png: is a link to '/etc'"),
    ({"name": "a/2.png", "type": tarfile.LNKTYPE, "linkname": "a/1.png"}, "set:a/2.png: is a link to 'a/1.png'"),
    ({"name": "a/2.png", "type": tarfile.FIFOTYPE}, "set:a/2.png: is a sparse file, a pipe or a device"),
    ({"name": "a/2.png", "type": tarfile.CHRTYPE, "devmajor": 1}, "set:a/2.png: is a sparse file, a pipe or a device"),
    ({"name": "a/../../2.png"}, "set: the name 'a/../../2.png' leads out of the archive"),
    ({"name": "a/\udcff.png"}, r"set: the name 'a/\udcff.png' is not UTF-8"),
])  # fmt: skip
def test_archives_that_would_mislead(tmp_path, header, message):
    path = archive_of(tmp_path / "set", pngs(["a/1.png"]), extra=[member(**header)], format=tarfile.GNU_FORMAT)
    error = error_of(path)
    assert isinstance(error, DataError)
    assert message in str(error)


def test_an_image_twice_in_an_archive(tmp_path):
    path = archive_of(tmp_path / "set", [*pngs(["a/1.png", "b/1.png"]).items(), *pngs(["a/1.png"]).items()])
    assert f"{path}:a/1.png: is in the archive twice" in str(error_of(path))
    with pytest.raises(DataError, match="is in the archive twice"):
        open_data(path).read(0, 45)


def test_archives_leave_nothing_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    links = [member("a/READ.me", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("pipe", type=tarfile.FIFOTYPE)]
    outside = tmp_path / "outside" / "a" / "2.png"
    long = "b" * 150 + "/1.png"
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = archive_of(tmp_path / "set", pngs(["./c/1.png", long]), extra=links, format=format)
        source = open_data(path)
        found = source.describe()
        assert found.labels.tolist() == ["b" * 150, "c"]
        assert found.notes == ["2 files that are not images are left out, such as a/READ.me"]
        np.testing.assert_array_equal(source.read(0, 45)[1], pixels("./c/1.png").ravel())
    source = open_data(archive_of(tmp_path / "set", pngs([str(outside)])))
    assert source.describe().labels.tolist() == ["a"]
    source.read(0, 45)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["set", "work"]


@pytest.mark.parametrize("packer", PACKERS)
def test_archives_cut_short_or_damaged(tmp_path, packer):
    path = archive_of(tmp_path / "set", pngs(["a/1.png", "b/1.png"]), packer)
    whole = path.read_bytes()
    n_content = 4 * 512 if packer == "tar" else len(whole)
    for n_bytes in range(512 if packer == "tar" else 40, n_content, 64 if packer == "tar" else 17):
        path.write_bytes(whole[:n_bytes])
        error = error_of(path, format="images")
        assert isinstance(error, DataError)
        assert f"{path}: " in str(error)
        assert "copy or download it again" in str(error)
    if packer == "tar":
        path.write_bytes(whole[:1024] + b"\1" + whole[1025:])  # in the name of the second file: its checksum is wrong
        assert "tar archive is cut short or damaged" in str(error_of(path))


def test_joined_archives_are_refused(tmp_path):
    first, second = (archive_of(tmp_path / name, pngs([f"{name}/1.png"])).read_bytes() for name in "ab")
    (tmp_path / "set").write_bytes(first + second)
    assert "set: has data after the end of the archive" in str(error_of(tmp_path / "set"))


def test_links_in_folders(tmp_path):
    folder_of(tmp_path / "far", pngs(["1.png", "2.png"]))
    path = folder_of(tmp_path / "set", pngs(["b/1.png"]))
    (path / "a").symlink_to(tmp_path / "far")
    (path / "b" / "2.png").symlink_to(tmp_path / "far" / "1.png")
    source = open_data(path)
    assert source.describe().labels.tolist() == ["a", "a", "b", "b"]
    np.testing.assert_array_equal(source.read(0, 45)[3], pixels("1.png").ravel())
    (path / "b" / "3.png").symlink_to("nowhere")
    assert f"{path}/b/3.png: is a broken link" in str(error_of(path))
    (path / "b" / "3.png").unlink()
    os.mkfifo(path / "b" / "3.png")
    assert f"{path}/b/3.png: is a broken link, a pipe or a device" in str(error_of(path))
    (path / "b" / "3.png").unlink()
    (tmp_path / "far" / "back").symlink_to(path)
    assert "is a link to a folder that contains it" in str(error_of(path))

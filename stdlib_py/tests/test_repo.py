"""`tw.repo` outside Twill reads from the git root above the current folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tw import SpecError, repo


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / ".git").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "version").write_text("1.2\n")
    (tmp_path / "data" / "binary").write_bytes(b"\xff")
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    monkeypatch.setattr(repo, "_tree", None)
    yield tmp_path


def test_files_are_read_from_the_root() -> None:
    assert repo.read("data/version") == "1.2\n"
    assert repo.read("./data//version") == "1.2\n"


def test_folders_are_listed() -> None:
    assert repo.list() == ["app/", "data/"]
    assert repo.list("data") == ["binary", "version"]


def test_existence_can_be_asked() -> None:
    assert repo.exists("data")
    assert repo.exists("data/version")
    assert not repo.exists("data/absent")


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "data/../../x"])
def test_paths_cannot_leave_the_repository(path: str) -> None:
    with pytest.raises(SpecError, match="leaves the repository"):
        repo.read(path)


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(SpecError, match="has no file `absent`"):
        repo.read("absent")
    with pytest.raises(SpecError, match="has no folder `data/version`"):
        repo.list("data/version")
    with pytest.raises(SpecError, match="is not UTF-8"):
        repo.read("data/binary")

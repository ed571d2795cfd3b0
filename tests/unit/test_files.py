"""Files that are whole or not there."""

from pathlib import Path

import pytest

from parity_check.errors import OutputError
from parity_check.files import check_writable, write_text


def test_a_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "t.parquet")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_is_no_place_to_write_below(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is not a directory"):
        check_writable(tmp_path / "file" / "t.parquet")
    with pytest.raises(OutputError, match="Not a directory"):
        check_writable(tmp_path / "file" / "deeper" / "t.parquet")


def test_a_name_of_the_systems_is_no_place_to_write() -> None:
    """As root, a file moved to /dev/stdout would replace it for every program."""
    with pytest.raises(OutputError, match="it is a"):
        check_writable(Path("/dev/stdout"))


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")
    path.with_name("report.json.part").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(path, "new")
    assert path.read_text() == "old"

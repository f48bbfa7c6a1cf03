"""What the processes say, kept in files that stay small."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.host.logs import Lines, RotatingFile, last_lines
from shoal.machinery.files import write_atomic


def test_a_full_file_moves_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    with RotatingFile(tmp_path / "x.log", max_bytes=10, kept=2) as file:
        for number in range(8):
            file.write(b"line %d\n" % number)
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"x.log": b"line 7\n", "x.log.1": b"line 6\n", "x.log.2": b"line 5\n"}


def test_a_line_longer_than_the_file_may_be_is_written_whole(tmp_path: Path) -> None:
    with RotatingFile(tmp_path / "x.log", max_bytes=4) as file:
        file.write(b"a long line\n")
    assert (tmp_path / "x.log").read_bytes() == b"a long line\n"


def test_a_new_daemon_goes_on_in_the_old_file(tmp_path: Path) -> None:
    for line in (b"before\n", b"after\n"):
        with RotatingFile(tmp_path / "x.log") as file:
            file.write(line)
    assert (tmp_path / "x.log").read_bytes() == b"before\nafter\n"


@given(lines=st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), cuts=st.lists(st.integers(1, 9)))
def test_lines_come_out_whole_however_they_were_cut(lines: list[bytes], cuts: list[int]) -> None:
    data, reader, seen = b"".join(line + b"\n" for line in lines), Lines(), []
    for cut in cuts:
        seen += reader.feed(data[:cut])
        data = data[cut:]
    seen += reader.feed(data) + reader.end()
    assert seen == [line + b"\n" for line in lines]


def test_the_last_words_of_a_process_count_without_a_newline() -> None:
    reader = Lines()
    assert reader.feed(b"one\ntw") == [b"one\n"]
    assert reader.end() == [b"tw\n"]
    assert reader.end() == []


def test_an_endless_line_is_passed_on_in_pieces() -> None:
    assert Lines(longest=4).feed(b"abcdef") == [b"abcdef\n"]


@pytest.mark.parametrize(("count", "expected"), [(2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_end_of_a_log(tmp_path: Path, count: int, expected: list[str]) -> None:
    (tmp_path / "x.log").write_text("a\nb\nc\n")
    assert last_lines(tmp_path / "x.log", count) == expected


def test_a_log_that_is_not_there_has_no_end(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "x.log", 3) == []


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"one")
    write_atomic(tmp_path / "key", b"two", 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_bytes() == b"two"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o640

import bz2
import gzip
import lzma

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.lines import json_rows, text_lines


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_lines_are_those_of_the_text_whatever_compresses_it(tmp_path, suffix, compress):
    file = tmp_path / f"text{suffix}"
    file.write_bytes(compress("\ufeffone\r\ntwo\u2028more\n\nthree".encode()))
    assert list(text_lines("--file", file)) == [(1, "one"), (2, "two\u2028more"), (3, ""), (4, "three")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{}\n[1]\n", "line 2 of .* is not an object"),
        (b"{}\n\n{", "line 3 of .* is not JSON"),
        (b'{"a": "\\ud800"}', "line 1 of .* contains half a character"),
        (b"{}\n\xff\n", r"line 2 of .* is not UTF-8 text \(byte 1 of the line is 0xff\)"),
    ],
)
def test_a_broken_line_is_named(tmp_path, content, says):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=f"^--file: .*{says}"):
        list(json_rows("--file", tmp_path / "rows.jsonl"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone cannot be read"):
        list(text_lines("--file", tmp_path / "gone"))

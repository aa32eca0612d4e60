"""The version is one that pip can order, and is read without importing the package."""

import ast
from pathlib import Path

from packaging.version import Version

import rgtg_hf
from rgtg_hf.version import __version__


def test_the_version_is_in_its_normal_form():
    assert str(Version(__version__)) == __version__


def test_the_package_has_this_version():
    assert rgtg_hf.__version__ == __version__


def test_the_build_reads_the_version_from_the_text_of_its_file():
    body = ast.parse((Path(rgtg_hf.__file__).parent / "version.py").read_text("utf-8")).body
    assert [type(node) for node in body] == [ast.Expr, ast.Assign]
    assert ast.literal_eval(body[1].value) == __version__

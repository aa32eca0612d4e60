import sys

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.judge import load_judge

CODE = """
def length(prompts, responses):
    return [len(response) for response in responses]

def mean(prompts, responses):
    return 0.5

def nothing(prompts, responses):
    return []

def words(prompts, responses):
    return ["good" for _ in responses]

def broken(prompts, responses):
    return [1 / 0]
"""


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """A module in the current folder, which is not on Python's path."""
    (tmp_path / "my_judges.py").write_text(CODE)
    (tmp_path / "bad_judges.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop("my_judges", None)


def test_a_function_of_the_current_folder_judges(judges):
    assert load_judge("my_judges:length")(["a", "b"], ["one", "three"]) == [3, 5]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vadr", "'vadr'. Did you mean `vader`. Choose from: vader, flesch, module:function"),
        ("my_judges:lenght", "the module my_judges has no function 'lenght'. Did you mean .length."),
        ("my_judge:length", "there is no module 'my_judge' in the current folder"),
        ("package.that.is.not:length", "there is no module 'package.that.is.not'"),
        ("bad_judges:length", "bad_judges cannot be imported: ModuleNotFoundError: No module named 'nowhere_to"),
        (
            "my_judges:mean",
            "my_judges:mean failed .* one response, .* returned 0.5 for 1 response, but a list",
        ),
        ("my_judges:nothing", "returned 0 numbers for 1 response"),
        ("my_judges:words", r"returned \['good'\] for 1 response"),
        ("my_judges:broken", "my_judges:broken failed .* one response, .* ZeroDivisionError: division by zero"),
        ("./nothing-here", "it cannot be loaded"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_by_a_sentence(judges, name, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        load_judge(name)
    assert "\n" not in str(caught.value)

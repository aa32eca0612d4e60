import ast
from pathlib import Path

import pytest
from accelerate import Accelerator

from rgtg_hf.private_names import ACCELERATE_MARK, BEAM_LOOP, SAMPLING_LOOP, attention_kind, forget_preparation
from tests.tiny_models import tiny_policy
from tests.training.helpers import make_reward_model
from tests.versions import since

PACKAGE = Path(__file__).parents[1] / "rgtg_hf"


@since("1.14", "nothing is marked", package="accelerate")
def test_accelerate_still_marks_what_it_has_prepared_for_evaluation():
    model = make_reward_model()
    Accelerator(cpu=True).prepare_model(model, evaluation_mode=True)
    assert getattr(model, ACCELERATE_MARK)
    forget_preparation(model)
    assert not hasattr(model, ACCELERATE_MARK)


def test_transformers_still_has_its_loops_and_the_kind_of_attention():
    policy = tiny_policy()
    assert callable(getattr(policy, SAMPLING_LOOP))
    assert callable(getattr(policy, BEAM_LOOP))
    policy.set_attn_implementation("eager")
    assert attention_kind(policy) == "eager"


def names_made_here():
    """Private names that the package itself defines: functions, attributes of `self`, class and module variables."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_no_other_private_name_of_another_package_is_used(room):
    made = {"_replace", *names_made_here()}  # a public method of named tuples
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert node.attr in made, f"{path.name}:{node.lineno} uses {node.attr}"
            if isinstance(node, ast.FunctionDef):
                assert node.name != "_set_signature_columns_if_needed", path.name

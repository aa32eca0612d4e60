"""Writes docs/models.md: what works with each family of language models, as the tests find it.

    python docs/make_models_table.py

It runs the tests over tests/families.py and makes a table of what passed. A mark in the table is a test that was run,
not a claim.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from make_support_table import run_tests

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
REWARD = "test_a_policy_becomes_a_reward_model_that_is_right_and_can_be_saved"
HEAD = "test_every_token_is_the_best_of_policy_and_head"
MERGED = "test_a_merged_policy_of_any_family_is_the_steered_one_or_is_refused_in_a_sentence"
WHOLE = "test_it_reads_text_as_the_whole_model_does"
FILES = [
    *("tests/rewards/test_sequence_classifiers.py", "tests/rewards/test_merge.py"),
    *("tests/rewards/test_text_decoder.py", "tests/decoding/test_head_families.py"),
]
TOP = """\
# Families of models

What was tried with a tiny random model of each family, and passed. Written by `python docs/make_models_table.py` with
transformers {version}; do not edit. A test fails when transformers gets a family that is not in the list.

- **Reward model**: `PrefixRewardTrainer(model="a policy of the family")` makes one; its rewards are those of every
  prefix read alone, and it is saved and loaded. *Made here*: transformers has no sequence classifier for the family.
- **Read**: what a step costs the reward model. *Together*: all candidates in one pass over one cache. *A state
  each*: the same, with a recurrent state for every candidate. *A cache each*: the cache is copied for every candidate,
  since it cannot be shared. *Without a cache*: whole sequences. A warning says when it is one of the last two.
- **Head**: a steering head's tokens are those of brute force, in a padded batch.
- **Merged**: the policy with the head in its output embedding, saved and loaded, has the steered policy's
  probabilities.

As a policy, any of them is steered by a reward model like any other: the processor sees its logits alone.

"""
FOOT = """
Of multimodal checkpoints, the text decoder is made a reward model, and reads text as the whole model does. Tried:
{multimodal}.
A multimodal policy is steered with images in its prompt too. The reward model reads the ids that stand for an image as
they are; give it the prompt without them as `reward_prompts=`.

Encoders (BERT and the like) read whole texts: see [An encoder or a function](how-to/encoder.md). Encoder-decoder
policies are steered by a reward model that reads the source text as the prompt; they have no heads.
"""
READ = {
    **{"SiblingScorer": "together", "HybridScorer": "a state each", "ExpandScorer": "a cache each"},
    "ReferenceScorer": "without a cache",
}


def how_it_is_read(family: str) -> tuple[str, str]:
    """Whose reward model of a family it is, and how it is read."""
    from transformers import AutoModelForSequenceClassification

    from rgtg_hf.rewards.sequence_classifiers import ensure_sequence_classifier
    from rgtg_hf.scoring.choose import choose_scorer
    from tests.families import tiny_config

    config = tiny_config(family)
    config.num_labels = 1
    kind = ensure_sequence_classifier(config)
    own = kind is not AutoModelForSequenceClassification
    model = (kind(config) if own else kind.from_config(config)).eval()
    return "made here" if own else "transformers'", READ[type(choose_scorer(model)).__name__]


def make_page(passed: set[str]) -> str:
    """The page, from the names of the tests that passed."""
    import transformers

    from tests.families import EVERY

    logging.disable(logging.WARNING)
    lines = ["| family | reward model | read | head | merged |", "| --- | --- | --- | --- | --- |"]
    for family in EVERY:
        whose, read = how_it_is_read(family)
        reward = whose if f"{REWARD}[{family}]" in passed else "fails"
        head = "✓" if f"{HEAD}[{family}]" in passed else "fails"
        lines.append(f"| `{family}` | {reward} | {read} | {head} | {merging(family, passed)} |")
    kinds = sorted(found[1] for name in passed if (found := re.fullmatch(rf"{WHOLE}\[(.*)\]", name)))
    foot = FOOT.format(multimodal=", ".join(f"`{kind}`" for kind in kinds))
    return TOP.format(version=transformers.__version__) + "\n".join(lines) + "\n" + foot


def merging(family: str, passed: set[str]) -> str:
    """Whether a head can be merged into a policy of the family."""
    from tests.rewards.test_merge import CAPPED, TIED

    if family in TIED:
        return "refused: shared layers"
    if f"{MERGED}[{family}]" not in passed:
        return "fails"
    return "refused: more than a linear map" if family in CAPPED else "✓"


if __name__ == "__main__":
    (ROOT / "docs" / "models.md").write_text(make_page(run_tests(*FILES)), encoding="utf-8")

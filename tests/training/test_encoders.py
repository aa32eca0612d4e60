import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from rgtg_hf.training.encoders import encoder_position_rewards, needed_positions, suffix_tokens, tokenize_for_encoder
from tests.tiny_models import tiny_encoder
from tests.training.helpers import SPECIAL, WORDS, make_encoder_tokenizer


@pytest.fixture
def tokenizer():
    return make_encoder_tokenizer()


@pytest.fixture
def encoder():
    small = {"hidden_size": 16, "intermediate_size": 24, "initializer_range": 0.3}
    return tiny_encoder(len(SPECIAL + WORDS), seed=6, **small).train()


def test_texts_are_tokenized_without_their_end(tokenizer):
    assert suffix_tokens(tokenizer) == [tokenizer.sep_token_id]
    rows = Dataset.from_list([{"prompt": "a?", "chosen": "b", "rejected": "cd"}])
    row = tokenize_for_encoder(rows, tokenizer)[0]
    assert row["chosen_ids"] == tokenizer("a?b")["input_ids"][:-1]
    assert row["rejected_ids"] == tokenizer("a?cd")["input_ids"][:-1]


def test_each_prefix_is_scored_as_a_text_of_its_own(encoder, tokenizer):
    encoder.eval()
    texts = ["a?bcd", "a?efghi"]
    rows = [tokenizer(text)["input_ids"][:-1] for text in texts]
    longest = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "prompt_length": torch.tensor([3]),
    }
    needed = torch.zeros(2, longest, dtype=torch.bool)
    needed[0, [0, 2]] = True
    needed[1, [1, 4]] = True
    rewards, _ = encoder_position_rewards(encoder, inputs, needed, suffix_tokens(tokenizer), 0)
    for row, read in ((0, 1), (0, 3), (1, 2), (1, 5)):
        alone = tokenizer(texts[row][: 2 + read], return_tensors="pt")
        assert_close(rewards[row, 3 + read - 1], encoder(**alone).logits[0, 0], rtol=1e-4, atol=1e-5)


def test_only_prefixes_that_count_are_scored():
    weights = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]])
    needed = needed_positions(weights, torch.tensor([4, 2]))
    assert needed.tolist() == [[False, True, False, True, False], [False, True, False, False, False]]
    assert needed_positions(weights, torch.tensor([4, 2]), fractions=(1.0,)).sum() == 3
    assert needed_positions(weights, torch.tensor([5, 1]), fractions=(0.5,))[0].tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_an_encoder_trains_on_drawn_prefixes(make_trainer, rows, encoder, tokenizer):
    trainer = make_trainer(rows, model=encoder, evaluation=rows, prefixes_per_pair=3, max_steps=15, learning_rate=1e-2)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate(Dataset.from_list(rows))
    assert trainer.args.prefixes == "random"
    assert after["eval_loss"] < 0.8 * before["eval_loss"]
    assert after["eval_accuracy_at_100"] > 0.9

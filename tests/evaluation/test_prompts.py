import pytest
import torch

from rgtg_hf.evaluation.prompts import as_messages, encode_batch, last_message
from tests.cli.conftest import byte_tokenizer

MESSAGES = [{"role": "user", "content": "Hello"}]


def test_a_text_is_the_users_message_and_the_batch_is_padded_on_the_left():
    inputs = encode_batch(byte_tokenizer(), ["Hello", "A longer one", MESSAGES])
    assert torch.equal(inputs["input_ids"][0], inputs["input_ids"][2])
    assert inputs["attention_mask"][0, 0] == 0
    assert inputs["attention_mask"][:, -1].all()


def test_without_a_template_texts_are_continued_and_messages_are_refused():
    tokenizer = byte_tokenizer(None)
    assert tokenizer.decode(encode_batch(tokenizer, ["Hello"])["input_ids"][0]) == "Hello"
    with pytest.raises(ValueError, match="no chat template"):
        encode_batch(tokenizer, [MESSAGES])


def test_a_prompt_that_the_template_refuses_is_told():
    tokenizer = byte_tokenizer("{{ raise_exception('no system prompts') }}")
    with pytest.raises(ValueError, match="chat template refuses a prompt: no system prompts"):
        encode_batch(tokenizer, ["Hello"])


def test_a_prompt_is_read_as_a_conversation_or_as_its_last_message():
    assert as_messages("Hello") == MESSAGES
    assert as_messages(MESSAGES) == MESSAGES
    assert last_message("Hello") == last_message(MESSAGES) == "Hello"

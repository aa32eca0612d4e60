import json

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.prompt_files import encode_prompts, read_prompts
from tests.cli.conftest import byte_tokenizer

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_text_file_has_a_prompt_on_each_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n two \n", encoding="utf-8")
    assert read_prompts(["zero"], str(file)) == ["zero", "one", "two"]


def test_rows_may_be_text_or_messages(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("one", MESSAGES)), encoding="utf-8")
    assert read_prompts([], str(file)) == ["one", MESSAGES]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "\n \n", "has no prompts"),
        ("a.jsonl", "", "has no prompts"),
        ("a.jsonl", '{"prompt": "a"}\nnot json\n', "line 2 .* is not JSON"),
        ("a.jsonl", '{"text": "a"}\n', "line 1 .* no usable `prompt`"),
        ("a.jsonl", '{"prompt": []}\n', "line 1 .* no usable `prompt`"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        read_prompts([], str(tmp_path / name))


def test_prompts_go_through_the_chat_template_and_are_padded_on_the_left():
    tokenizer = byte_tokenizer()
    inputs = encode_prompts(tokenizer, ["Hello", MESSAGES])
    assert tokenizer.batch_decode(inputs["input_ids"]) == [
        "<pad>" * (inputs["attention_mask"][0] == 0).sum() + "<start>user:Hello<end><start>assistant:",
        "<start>system:Be brief.<end><start>user:Hello<end><start>assistant:",
    ]


def test_text_is_continued_as_it_stands_without_a_template():
    for tokenizer, options in ((byte_tokenizer(None), {}), (byte_tokenizer(), {"chat_template": False})):
        inputs = encode_prompts(tokenizer, ["Hello"], **options)
        assert tokenizer.batch_decode(inputs["input_ids"]) == ["Hello"]


def test_messages_without_a_template_are_refused():
    with pytest.raises(UserError, match="no chat template"):
        encode_prompts(byte_tokenizer(None), [MESSAGES])

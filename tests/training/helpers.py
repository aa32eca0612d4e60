"""A tokenizer, tiny models and rows, all made in memory."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
WORDS = ["\n", "?", "0", "1", *"abcdefghijklmnopqrstuvwxyz"]
# The best checkpoint is that of the first step, for sure not the last one.
HIGHEST_LOSS_IS_BEST = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "greater_is_better": True,
}
# Like many real templates, it writes the end-of-sequence token and a newline after each answer.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(**overrides):
    """One token per letter: `"ab?"` is three tokens."""
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    settings = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "?"} | overrides
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_encoder_tokenizer():
    """Writes `[CLS] text [SEP]`, and has no end-of-sequence token."""
    tokenizer = make_tokenizer(bos_token=None, eos_token=None, cls_token="<s>", sep_token="</s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def tiny_config(**overrides):
    settings = {
        "vocab_size": len(SPECIAL + WORDS),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    return LlamaConfig(**settings | overrides)


def make_reward_model(**overrides):
    torch.manual_seed(3)
    return LlamaForSequenceClassification(tiny_config(num_labels=1, **overrides))


def make_policy(**overrides):
    torch.manual_seed(4)
    return LlamaForCausalLM(tiny_config(**overrides))


def text_rows(number=8):
    """Rows whose chosen responses hold an "a" where the rejected ones hold a "z"."""
    letters = "bcdefghijklm"
    return [
        {
            "prompt": f"{letters[i % 12]}?",
            "chosen": f"{letters[(i + 1) % 12]}a{letters[(i * 5) % 12] * (i % 3 + 1)}",
            "rejected": f"{letters[(i + 1) % 12]}z{letters[(i * 7) % 12] * (i % 2 + 1)}",
        }
        for i in range(number)
    ]

"""Reward models that read text, with their tokenizers."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rgtg_hf.scoring.scorer import PrefixBatch
from tests.scoring.generations import generation
from tests.scoring.text.tiny_tokenizers import SENTENCES, bert_like, byte_level, sentencepiece
from tests.tiny_models import tiny_reward_model

BYTES, OTHER_BYTES = byte_level(), byte_level(90, [s.upper() for s in SENTENCES], special=("<end>",))
PIECES, WORDS = sentencepiece(), bert_like()
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
    "num_labels": 1,
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
}
ENCODERS = {
    "bert": (BertConfig, BertForSequenceClassification, {}),
    "roberta": (RobertaConfig, RobertaForSequenceClassification, {}),
    "deberta": (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    ),
    "modernbert": (
        ModernBertConfig,
        ModernBertForSequenceClassification,
        {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3},
    ),
}


def encoder_of(family="bert", **overrides):
    torch.manual_seed(3)
    config_class, model_class, settings = ENCODERS[family]
    model = model_class(config_class(**_SIZES | settings | overrides)).eval()
    torch.nn.init.normal_(next(p for name, p in reversed(list(model.named_parameters())) if name.endswith("weight")))
    return model


def causal(tokenizer=BYTES, family="llama", **settings):
    return tiny_reward_model(family, vocab_size=len(tokenizer), **settings)


def length(prompts, responses):
    """A reward that is obvious: letters of the response per letter of the prompt."""
    return [len(response) / len(prompt) for prompt, response in zip(prompts, responses, strict=True)]


def text_generation(tokenizer=BYTES, seed=0, make=generation, **settings):
    prompts = [tokenizer(text)["input_ids"] for text in ("The cat sat on", "Once there was a river, and 水は", "Dogs")]
    return make(seed, prompts=prompts, vocab_size=len(tokenizer), **settings)


def one_row(tokenizer, prompt, response, candidates):
    """A step with a batch of one."""
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    row = torch.tensor([[*ids, *response]])
    return PrefixBatch(row, torch.ones_like(row), len(ids)), torch.tensor([candidates])

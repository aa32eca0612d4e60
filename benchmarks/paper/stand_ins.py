"""Small random models of the classes that the authors used: a GPT-2, and a DeBERTa with a score."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)

__all__ = ["make_stand_ins"]

_SIZE = {"vocab_size": 512, "max_position_embeddings": 512}


def make_stand_ins(folder: Path, rows: Iterable[dict[str, str]]) -> tuple[str, str]:
    """Makes and saves both, each with a tokenizer of its own that is trained on the rows' texts.

    Returns:
        The folders of the policy and of the reward model.
    """
    texts = [text for row in rows for text in row.values()]
    policy, reward = folder / "policy", folder / "reward_model"
    set_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=512, vocab_size=512, **ends)
    ).save_pretrained(policy)
    _tokenizer(texts, ["<|endoftext|>"], eos_token="<|endoftext|>").save_pretrained(policy)
    deberta = DebertaV2Config(
        **_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=2,
        num_labels=1,
        relative_attention=True,
        pos_att_type="p2c|c2p",
    )
    DebertaV2ForSequenceClassification(deberta).save_pretrained(reward)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    _tokenizer(texts, list(special.values()), **special).save_pretrained(reward)
    return str(policy), str(reward)


def _tokenizer(texts: list[str], special: list[str], **names: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if len(special) > 1:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)

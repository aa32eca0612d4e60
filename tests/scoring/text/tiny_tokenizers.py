"""Tiny tokenizers of the two great kinds, trained in memory."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The cat sat on the mat and the dog sat on the cat.",
    "Once there was a river, and there were no boats upon the river.",
    "Dogs and cats are friends; rivers and boats are friends too!",
    "Où est la bibliothèque? 水は川を流れる。 Ça va très bien.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(merges=40, sentences=SENTENCES, special=("<|endoftext|>",), **settings):
    """Byte-level BPE, as in GPT-2: a space belongs to the word behind it, and tokens may be parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 256 + merges,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    settings = {"eos_token": special[0], "pad_token": special[0]} | settings
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def sentencepiece(size=90, sentences=SENTENCES, **settings):
    """Unigram with spaces as `▁` and bytes for unknown characters, as in Llama 2; `<s>` begins every text."""
    special = ["<unk>", "<s>", "</s>"]
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = metaspace
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(sentences, trainer)
    pieces = json.loads(trained.to_str())["model"]["vocab"][len(special) :]
    # Without letters of other scripts, so that these are written as bytes.
    pieces = [(piece, score) for piece, score in pieces if ord(max(piece)) < 128 or max(piece) == "▁"]
    vocabulary = [(token, 0.0) for token in special] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)] + pieces
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = metaspace
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **settings
    )


def bert_like():
    """Words and word pieces in lower case between `[CLS]` and `[SEP]`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)

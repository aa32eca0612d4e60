"""A reward model with another tokenizer gets the rewards of whole texts, whatever the policy's tokens are."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.choose import probe_reader
from rgtg_hf.scoring.make import make_scorer
from rgtg_hf.scoring.policy_text import PolicyText
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.sequences import BranchReader, SharedPrefixReader, WholeReader
from rgtg_hf.scoring.text import TextScorer
from tests.scoring.generations import generation
from tests.scoring.tiny_tokenizers import CHAT_TEMPLATE, SENTENCES, byte_level, sentencepiece
from tests.tiny_models import tiny_reward_model

BYTES, OTHER_BYTES = byte_level(), byte_level(90, [s.upper() for s in SENTENCES], special=("<end>",))
PIECES = sentencepiece()
TOKENIZERS = {"bytes": BYTES, "other bytes": OTHER_BYTES, "pieces": PIECES}
PAIRS = [("bytes", "pieces"), ("pieces", "bytes"), ("bytes", "other bytes")]


def reward_model_for(tokenizer, family="llama", **settings):
    return tiny_reward_model(family, vocab_size=len(tokenizer), **settings)


def one_row(tokenizer, prompt, response, candidates):
    """A step with a batch of one."""
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    row = torch.tensor([[*ids, *response]])
    return PrefixBatch(row, torch.ones_like(row), len(ids), row.shape[1]), torch.tensor([candidates])


def written(tokenizer, ids):
    """Text of ids up to the last whole character, put together byte by byte."""
    if tokenizer is not PIECES:
        return tokenizer.decode(ids).rstrip("\ufffd")
    tokens = tokenizer.convert_ids_to_tokens(ids)
    text = b"".join(
        bytes([int(token[3:-1], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode()
        for token in tokens
    )
    return text.decode(errors="replace").removeprefix(" ").rstrip("\ufffd")


@torch.no_grad()
def reward_of_text(reward_model, reward_tokenizer, policy_tokenizer, prompt, response):
    """The obvious way: the whole text through the reward model."""
    special = set(policy_tokenizer.all_special_ids)
    plain = [id_ for id_ in prompt if id_ not in special]
    pieces = [[]]
    for id_ in response:
        if id_ == policy_tokenizer.eos_token_id:
            pieces.append([])
        elif id_ not in special:
            pieces[-1].append(id_)
    text = written(policy_tokenizer, plain + pieces[0])
    for piece in pieces[1:]:
        text += reward_tokenizer.eos_token + written(policy_tokenizer, piece)
    starts = [reward_tokenizer.bos_token_id] if reward_tokenizer.bos_token else []
    ids = starts + reward_tokenizer(text, add_special_tokens=False)["input_ids"]
    return float(prefix_rewards(reward_model, torch.tensor([ids]))[0, -1])


def text_rewards(prefixes, candidates, *models):
    base, rewards = [], []
    for ids, mask, row in zip(prefixes.input_ids, prefixes.attention_mask.bool(), candidates, strict=True):
        prompt = ids[: prefixes.prompt_length][mask[: prefixes.prompt_length]].tolist()
        response = ids[prefixes.prompt_length :].tolist()
        skipped = len(ids) - prefixes.base_length
        base.append(reward_of_text(*models, prompt, response[: len(response) - skipped]))
        rewards.append([reward_of_text(*models, prompt, [*response, candidate]) for candidate in row.tolist()])
    return torch.tensor(rewards), torch.tensor(base)


def text_generation(tokenizer, seed, **settings):
    prompts = [
        tokenizer("The cat sat on")["input_ids"],
        tokenizer("Once there was a river, and 水は")["input_ids"],
        tokenizer("Dogs")["input_ids"],
    ]
    return generation(seed, prompts=prompts, vocab_size=len(tokenizer), **settings)


def words_generation(tokenizer, text=SENTENCES[2] + " " + SENTENCES[3]):
    """Real text, which is retokenized more than random tokens are."""
    prompt = tokenizer("The cat sat on the mat.")["input_ids"]
    response = tokenizer(text, add_special_tokens=False)["input_ids"]
    for t in range(20):
        row = torch.tensor([prompt + response[:t]])
        yield PrefixBatch(row, torch.ones_like(row), len(prompt), row.shape[1]), torch.tensor([response[t : t + 4]])


@pytest.mark.parametrize(("policy", "reward"), PAIRS)
def test_cached_rewards_are_those_of_whole_texts(policy, reward):
    tokenizer, reward_tokenizer = TOKENIZERS[policy], TOKENIZERS[reward]
    reward_model = reward_model_for(reward_tokenizer)
    scorer = TextScorer(reward_model, tokenizer, reward_tokenizer)
    assert isinstance(scorer.reader, BranchReader)
    for prefixes, candidates in [*text_generation(tokenizer, seed=0), *words_generation(tokenizer)]:
        found = scorer.score(prefixes, candidates)
        expected = text_rewards(prefixes, candidates, reward_model, reward_tokenizer, tokenizer)
        assert_close(tuple(found), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma3", "gpt_neo", "bloom", "mpt", "jamba"])
def test_every_family_reads_text_rightly(family):
    reward_model = reward_model_for(PIECES, family)
    assert probe_reader(reward_model, SharedPrefixReader) == (family != "jamba")
    assert probe_reader(reward_model, BranchReader) == (family not in ("gpt_neo", "bloom", "mpt", "jamba"))
    scorer = TextScorer(reward_model, BYTES, PIECES)
    reference = TextScorer(reward_model, BYTES, PIECES, "reference")
    for prefixes, candidates in text_generation(BYTES, seed=2, steps=8):
        assert_close(scorer.score(prefixes, candidates), reference.score(prefixes, candidates), atol=1e-4, rtol=1e-4)


def test_a_step_costs_the_changed_tail_only():
    scorer = TextScorer(reward_model_for(PIECES), BYTES, PIECES)
    steps = list(words_generation(BYTES))
    scorer.score(*steps[0])
    before = scorer.tokens_computed
    for prefixes, candidates in steps[1:]:
        scorer.score(prefixes, candidates)
    per_step = (scorer.tokens_computed - before) / (len(steps) - 1)
    assert per_step < 5 * (steps[0][1].shape[1] + 1)  # whole texts would be 5 times 10 to 60 tokens


def test_the_cache_does_not_outgrow_the_text():
    scorer = TextScorer(reward_model_for(PIECES), BYTES, PIECES)
    for prefixes, candidates in text_generation(BYTES, seed=0):
        scorer.score(prefixes, candidates)
    for row in scorer.reader.reader.rows:
        held = {*row.trunk.slots, *(slot for tail in row.tails for slot in tail.slots)}
        assert sorted([*held, *row.free]) == list(range(row.top))
        assert len(row.free) < 2 * candidates.shape[1]
    scorer.reset()
    assert not scorer.reader.reader.cache.layers
    assert not scorer.policy_text._prompts


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [BranchReader, SharedPrefixReader])
def test_rows_that_grow_by_different_numbers_of_tokens_share_a_batch(kind, seed):
    reward_model = tiny_reward_model()
    reader, whole = kind(reward_model), WholeReader(reward_model)
    generator = torch.Generator().manual_seed(seed)

    def some(low, high):
        return torch.randint(40, (int(torch.randint(low, high, (1,), generator=generator)),), generator=generator)

    trunks = [some(3, 12).tolist() for _ in range(4)]
    for step in range(12):
        rows = [[trunk + some(1 if not trunk else 0, 4).tolist() for _ in range(3)] for trunk in trunks]
        assert_close(reader.read(rows), whole.read(rows), atol=1e-4, rtol=1e-4)
        order = torch.randint(len(trunks), (len(trunks),), generator=generator).tolist()
        trunks = [trunks[row][: -int(some(1, 3)[0]) % 3 or None] + some(0, 4).tolist() for row in order]
        if step == 6:
            trunks = [[], *trunks[1:]]


def texts(tokenizer, prompt, response, candidates, reward_tokenizer=None, **settings):
    step = PolicyText(tokenizer, reward_tokenizer, **settings).read(*one_row(tokenizer, prompt, response, candidates))
    return step.base[0], step.candidates[0]


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize("character", ["水", "é", "🙂"])
def test_half_a_character_is_left_out(tokenizer, character):
    whole = tokenizer(" and 水" + character, add_special_tokens=False)["input_ids"]
    for n in range(1, len(character.encode())):
        base, (candidate,) = texts(tokenizer, "The cat", whole[: -n - 1], whole[-n - 1 : -n])
        assert candidate.join() == base.join() == " and 水"
    base, (candidate,) = texts(tokenizer, "The cat", whole[:-1], whole[-1:])
    assert candidate.join() == " and 水" + character


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_a_character_may_begin_in_the_prompt(tokenizer):
    prompt = tokenizer("Où est 水 は 川 を 流 れ る 水は川を流れる水")["input_ids"]
    row = torch.tensor([prompt[:-1]])
    policy_text = PolicyText(tokenizer)
    step = policy_text.read(
        PrefixBatch(row, torch.ones_like(row), row.shape[1], row.shape[1]), torch.tensor([prompt[-1:]])
    )
    assert step.base[0].prompt == "Où est 水 は 川 を 流 れ る 水は川を流れる"
    assert (step.base[0].join(), step.candidates[0][0].join()) == ("", "水")


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_leading_spaces_survive(tokenizer):
    boats = tokenizer("The boats")["input_ids"][len(tokenizer("The")["input_ids"]) :]
    for n in range(len(boats)):
        base, (candidate,) = texts(tokenizer, "The cat", boats[:n], boats[n : n + 1])
        assert candidate.join().startswith(" ")
        assert candidate.join().startswith(base.join())
    _, (candidate,) = texts(tokenizer, "The cat", boats + boats[:-1], boats[-1:])
    assert candidate.join() == " boats boats"


def test_prompts_are_decoded_once():
    policy_text = PolicyText(BYTES)
    step = one_row(BYTES, "The cat sat on the mat and the dog", [], [30, 40])
    policy_text.read(*step)
    kept = dict(policy_text._prompts)
    policy_text.read(*step)
    assert policy_text._prompts == kept
    assert len(kept) == 1


def encoded(reward_tokenizer, tokenizer, prompt, response, candidates, **settings):
    """The reward model's ids of the base and of each candidate, as text."""
    scorer = TextScorer(reward_model_for(reward_tokenizer), tokenizer, reward_tokenizer, **settings)
    step = scorer.policy_text.read(*one_row(tokenizer, prompt, response, candidates))
    ids = scorer._encode({step.base[0], *step.candidates[0]})
    return [reward_tokenizer.decode(ids[text]) for text in (step.base[0], *step.candidates[0])], scorer


def test_the_end_is_the_reward_models_own():
    (base, ended), _ = encoded(BYTES, PIECES, "The cat", PIECES.encode("sat", add_special_tokens=False), [2])
    assert base == "The cat sat"
    assert ended == "The cat sat<|endoftext|>"
    (base, ended), _ = encoded(PIECES, BYTES, "The cat", BYTES.encode(" sat"), [BYTES.eos_token_id])
    assert (base, ended) == ("<s> The cat sat", "<s> The cat sat</s>")


def test_further_end_tokens_may_be_named():
    extra = BYTES.encode("!")[0]
    (_, ended), _ = encoded(PIECES, BYTES, "The cat", [], [extra], eos_token_ids=[extra])
    assert ended == "<s> The cat</s>"


def test_in_its_chat_format_the_end_is_the_closing_of_an_answer():
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    chat = byte_level(60, special=special, chat_template=CHAT_TEMPLATE)
    policy = byte_level(20, special=(*special, "<|tool|>"), chat_template=CHAT_TEMPLATE)
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    closing = policy.convert_tokens_to_ids("<|im_end|>")
    (base, eos, im_end, tool), _ = encoded(chat, policy, prompt, [], [policy.eos_token_id, closing, 3])
    assert base == tool == prompt  # special tokens of the same name stay, one that the reward model lacks has no text
    assert eos == im_end == prompt + "<|im_end|>\n"
    (_, eos, im_end), _ = encoded(chat, policy, "Hi", [], [policy.eos_token_id, closing])
    assert eos == im_end == "Hi<|endoftext|>"


def test_an_end_without_a_name_has_no_text():
    endless = byte_level(30, eos_token=None)
    (base, ended), _ = encoded(endless, PIECES, "The cat", [], [2])
    assert base == ended == "The cat"


def test_the_bos_token_is_there_once():
    other = sentencepiece(80)
    (base, _), _ = encoded(other, PIECES, "The cat", [], [2])
    assert base == "<s> The cat"
    (base, _), _ = encoded(PIECES, BYTES, "<s>The cat", [], [5])  # a prompt in the reward model's own format
    assert base == "<s> The cat"


def test_an_empty_text_is_read_as_its_beginning_or_refused():
    reward_model, row = reward_model_for(BYTES), torch.tensor([[PIECES.bos_token_id]])
    step = PrefixBatch(row, torch.ones_like(row), 1, 1), torch.tensor([[2]])
    found = TextScorer(reward_model, PIECES, BYTES).score(*step)
    assert_close(found.base, prefix_rewards(reward_model, torch.tensor([[BYTES.eos_token_id]]))[0, -1:])
    with pytest.raises(ValueError, match="nothing to read"):
        TextScorer(reward_model, PIECES, byte_level(eos_token=None)).score(*step)


def test_siblings_of_one_text_are_read_in_few_passes(monkeypatch):
    scorer = make_scorer(reward_model_for(PIECES), tokenizer=BYTES, reward_tokenizer=PIECES)
    passes = []
    backbone = scorer.reader.reader.backbone
    read = backbone.read
    monkeypatch.setattr(backbone, "read", lambda *a: passes.append(1) or read(*a))
    for prefixes, candidates in text_generation(BYTES, seed=0):
        passes.clear()
        scorer.score(prefixes, candidates)
        assert len(passes) <= 2

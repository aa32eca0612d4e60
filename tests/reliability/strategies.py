"""Random models, prompts, settings and calls, for hypothesis."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rgtg_hf import RewardGuidanceConfig
from tests.tiny_models import FAMILIES, PAD, VOCAB_SIZE, tiny_next_token_model, tiny_policy, tiny_reward_model


def cases(count):
    """So many random cases, always the same ones."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@lru_cache(maxsize=64)
def reward_model_of(family, seed, layers):
    depth = {"gpt2": "n_layer", "gpt_neo": None, "bloom": "n_layer", "mpt": "n_layers", "jamba": None}
    name = depth.get(family, "num_hidden_layers")
    listed = family == "gemma3"  # which has a kind for each of its two layers
    return tiny_reward_model(family, seed, **({} if name is None or listed else {name: layers}))


@lru_cache(maxsize=16)
def next_token_model_of(family, seed):
    return tiny_next_token_model(family, seed)


@lru_cache(maxsize=4)
def policy_of(seed):
    return tiny_policy(seed)


# GPT-2 more often: only learned positions show that positions are wrong by a constant.
families = st.sampled_from([*sorted(FAMILIES), *["gpt2"] * 3])
seeds = st.integers(1, 3)
depths = st.integers(1, 3)
tokens = st.integers(PAD, VOCAB_SIZE - 1)


@st.composite
def prompt_batches(draw, vocab_size=VOCAB_SIZE, first=PAD + 1, longest=9, most=3):
    """Prompts of mixed lengths; now and then a long one, past sliding windows and joint reads.

    Only where the mask is told may a prompt begin with the pad token: `first` is the lowest id to begin with.
    """
    batch = []
    for _ in range(draw(st.integers(1, most))):
        length = draw(st.integers(1, longest) | st.integers(16, 22))
        rest = draw(st.lists(st.integers(PAD, vocab_size - 1), min_size=length - 1, max_size=length - 1))
        prompt = [draw(st.integers(first, vocab_size - 1)), *rest]
        # The pad token's embedding is zero: a policy that has read nothing else likes all tokens alike.
        batch.append(prompt if any(prompt) else [*prompt, PAD + 1])
    return batch


@st.composite
def guidance_configs(draw, scorers=("auto", "reference"), widest=True):
    few = st.integers(1, 8)  # 1 is no choice at all
    return RewardGuidanceConfig(
        beta=draw(st.sampled_from([1.0, 2.5, 0.3, -1.5, 20.0, 0.0])),
        top_k=draw(few | st.sampled_from([0, VOCAB_SIZE, 10**9]) if widest else few),
        # Not so near to 1 or 0 that rounding decides.
        top_p=draw(st.none() | st.floats(0.05, 0.99) | st.just(1.0)),
        min_p=draw(st.none() | st.floats(0.001, 1.0)),
        min_entropy=draw(st.none() | st.floats(0.01, 2.0) | st.just(0.0)),
        max_increment=draw(st.none() | st.floats(0.1, 5.0)),
        max_step_kl=draw(st.none() | st.floats(0.01, 2.0)),
        scorer=draw(st.sampled_from(scorers)),
    )


@st.composite
def decoding_modes(draw, drafts=True):
    """Settings of generate(), and how many prompts they allow."""
    kind = draw(st.sampled_from(["greedy", "sampling", "beams", "beam sampling"] + ["drafts"] * drafts))
    mode: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, 7)), "do_sample": "sampling" in kind}
    if kind == "sampling":
        mode["num_return_sequences"] = draw(st.integers(1, 3))
    if "beam" in kind:
        mode["num_beams"] = draw(st.integers(2, 4))
        mode["num_return_sequences"] = draw(st.integers(1, mode["num_beams"]))
        mode["length_penalty"] = draw(st.sampled_from([1.0, 0.0, 2.0]))
        mode["early_stopping"] = draw(st.booleans())
    if "sampling" in kind:
        mode["temperature"] = draw(st.sampled_from([1.0, 0.5, 2.0]))
        mode["top_k"] = draw(st.sampled_from([0, 3]))
    if kind == "drafts":
        mode |= draw(
            st.sampled_from([{"prompt_lookup_num_tokens": 3}, {"assistant_model": 3}, {"assistant_model": 1}])
        )
    mode["repetition_penalty"] = draw(st.sampled_from([None, 1.5]))
    if mode["max_new_tokens"] > 2 and draw(st.booleans()):
        mode["min_new_tokens"] = 2
    return {name: value for name, value in mode.items() if value is not None}


@dataclass
class Call:
    """One call of generate().

    Attributes:
        prompts: Lists of ids.
        grown: Take as prompts those of the call before with so many tokens of what was generated; 0: `prompts`.
        mode: Settings of generate(); an assistant model by its seed.
        seed: Of sampling.
        mask_told: Tell the processor the attention mask, and fill the padding with any id.
        filler: That id.
        own_prompts: The reward model's own prompts, or none.
        reset: Reset the processor before.
    """

    prompts: list[list[int]]
    grown: int
    mode: dict[str, Any]
    seed: int
    mask_told: bool
    filler: int
    own_prompts: list[list[int]] | None
    reset: bool


@st.composite
def calls(draw, vocab_size=VOCAB_SIZE, drafts=True, may_own=True, may_grow=True, first=PAD + 1):
    mode = draw(decoding_modes(drafts))
    mask_told = draw(st.booleans()) and first == PAD + 1
    single = "prompt_lookup_num_tokens" in mode or "assistant_model" in mode
    prompts = draw(prompt_batches(vocab_size, PAD if mask_told else first, most=1 if single else 3))
    own = None
    if may_own and draw(st.integers(0, 3)) == 0:
        own = [draw(st.lists(tokens, min_size=1, max_size=6)) for _ in prompts]
    return Call(
        prompts,
        draw(st.sampled_from([0, 0, 1, 2, 5])) if may_grow and own is None else 0,
        mode,
        draw(st.integers(0, 3)),
        mask_told,
        draw(tokens),
        own,
        draw(st.booleans()),
    )

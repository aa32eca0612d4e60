"""Makes the scorer for a reward model, an encoder, a function of texts, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rgtg_hf.rewards.causal_classifier import check_reward_model
from rgtg_hf.rewards.model_state import evaluating
from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.rewards.value_model import as_reward_model
from rgtg_hf.scoring.choose import SCORERS, choose_scorer
from rgtg_hf.scoring.combined import CombinedScorer, check_weights
from rgtg_hf.scoring.scorer import Scorer
from rgtg_hf.scoring.text.encoder_scorer import EncoderScorer
from rgtg_hf.scoring.text.retokenized import RetokenizedScorer
from rgtg_hf.scoring.text.whole_texts import CallableScorer, RewardFunction

__all__ = ["RewardModel", "make_scorer"]

RewardModel: TypeAlias = PreTrainedModel | RewardFunction
_TEXT_SCORERS = ("auto", "reference")


def make_scorer(
    reward_model: RewardModel | Sequence[RewardModel],
    scorer: str = "auto",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase | None] | None = None,
    weights: Sequence[float] | None = None,
    eos_token_ids: Sequence[int] = (),
    use_cuda_graph: bool = False,
    value_beta: float = 0.0,
) -> Scorer:
    """Makes the scorer for a reward model, or for several.

    | reward model | scorer |
    | --- | --- |
    | causal, with the policy's vocabulary | [`choose_scorer`][rgtg_hf.scoring.choose.choose_scorer] |
    | causal, with another vocabulary | [`RetokenizedScorer`][rgtg_hf.scoring.text.retokenized.RetokenizedScorer] |
    | an encoder | [`EncoderScorer`][rgtg_hf.scoring.text.encoder_scorer.EncoderScorer] |
    | a function of texts | [`CallableScorer`][rgtg_hf.scoring.text.whole_texts.CallableScorer] |
    | a list of such | [`CombinedScorer`][rgtg_hf.scoring.combined.CombinedScorer] |

    Args:
        reward_model: A `*ForSequenceClassification` model with `num_labels=1`; or a function
            `(prompts, responses) -> rewards` of two lists of strings; or a list of such. A scorer is right in
            evaluation mode: score inside of [`evaluating`][rgtg_hf.rewards.model_state.evaluating].
        scorer: `"auto"` for the fastest scorer that is right. `"reference"` for whole sequences. `"siblings"`,
            `"hybrid"` and `"expand"` for causal models with the policy's vocabulary, `"next_token"` for a
            `NextTokenRewardModel`.
        tokenizer: The policy's tokenizer. Needed wherever rewards go through text.
        reward_tokenizer: The reward model's tokenizer. `None` means that it reads the policy's token ids, as does a
            tokenizer with the policy's vocabulary. With a list of reward models a list, or one for all of them.
        weights: With a list of reward models, the weight of each; 1 by default. Negative weights steer away.
        eos_token_ids: Ids of the policy that end a response, besides those that its tokenizer names.
        use_cuda_graph: Whether the steps of reward models that read the policy's ids run as a CUDA graph.
        value_beta: Which soft value of a value model is its reward, see
            [`as_reward_model`][rgtg_hf.rewards.value_model.as_reward_model].

    Returns:
        A new scorer with nothing kept.

    Raises:
        TypeError: If a reward model is neither a model nor a function, a tokenizer is not one, or a weight is not a
            number.
        ValueError: If a reward model cannot work, a tokenizer is missing, `scorer` is unknown or does not serve the
            reward model, or the numbers of models, weights and tokenizers differ.

    Example:
        ```python
        from rgtg_hf.scoring.make import make_scorer

        scorer = make_scorer([helpful, toxic], tokenizer=tokenizer, reward_tokenizer=[None, bert_tokenizer],
                             weights=[1.0, -0.5])
        ```
    """
    several = reward_tokenizer if isinstance(reward_tokenizer, (list, tuple)) else [reward_tokenizer]
    for name, one in [("tokenizer", tokenizer), *(("reward_tokenizer", one) for one in several)]:
        if not isinstance(one, (PreTrainedTokenizerBase, type(None))):
            raise TypeError(f"`{name}` is or holds a {type(one).__name__}, but a loaded tokenizer is required.")
    if scorer != "auto" and scorer not in SCORERS:
        raise ValueError(f"Unknown scorer {scorer!r}: choose one of {['auto', *SCORERS]}.")
    if not isinstance(reward_model, (list, tuple)):
        if weights is not None:
            raise ValueError(
                "`weights` goes with a list of reward models: pass `reward_model=[...]`, or scale `beta`."
            )
        if isinstance(reward_tokenizer, (list, tuple)):
            raise ValueError("`reward_tokenizer` is a list, but there is one reward model: pass its tokenizer alone.")
        with evaluating(reward_model):
            one = as_reward_model(reward_model, value_beta)
            return _make_one(one, scorer, tokenizer, reward_tokenizer, eos_token_ids, use_cuda_graph)  # type: ignore[arg-type]
    checked = check_weights(weights, len(reward_model))
    tokenizers = reward_tokenizer
    if not isinstance(tokenizers, (list, tuple)):
        tokenizers = [tokenizers] * len(reward_model)  # type: ignore[list-item]
    if len(tokenizers) != len(reward_model):
        raise ValueError(
            f"`reward_tokenizer` has {len(tokenizers)} entries for {len(reward_model)} reward models, but one for "
            "each is required (None for one that reads the policy's token ids, or is a function)."
        )
    with evaluating(reward_model):
        scorers = [
            _make_one(
                as_reward_model(one, value_beta), scorer, tokenizer, one_tokenizer, eos_token_ids, use_cuda_graph
            )
            for one, one_tokenizer in zip(reward_model, tokenizers, strict=True)
        ]
    return CombinedScorer(scorers, checked)


def _make_one(
    reward_model: RewardModel,
    scorer: str,
    tokenizer: PreTrainedTokenizerBase | None,
    reward_tokenizer: PreTrainedTokenizerBase | None,
    eos_token_ids: Sequence[int],
    use_cuda_graph: bool,
) -> Scorer:
    if callable(reward_model) and not isinstance(reward_model, (nn.Module, type)):
        name = getattr(reward_model, "__name__", type(reward_model).__name__)
        if tokenizer is None:
            raise ValueError(f"The reward function {name} reads text: pass the policy's tokenizer, `tokenizer=...`.")
        _check_name(scorer, f"the reward function {name}, which reads whole texts")
        return CallableScorer(reward_model, tokenizer, eos_token_ids)
    name = type(reward_model).__name__
    model = cast(PreTrainedModel, reward_model)  # or anything else that was passed, which the checks refuse
    if _is_encoder(model):
        _check_one_label(model)
        if tokenizer is None or reward_tokenizer is None:
            raise ValueError(
                f"{name} is not a causal sequence classifier but an encoder, which reads whole texts: pass the "
                "policy's tokenizer and its own, `tokenizer=..., reward_tokenizer=...`."
            )
        _check_name(scorer, f"the encoder {name}, which reads whole texts")
        return EncoderScorer(model, tokenizer, reward_tokenizer, eos_token_ids)
    check_reward_model(model)
    if reward_tokenizer is None:
        return choose_scorer(model, scorer, use_cuda_graph)
    if tokenizer is None:
        raise ValueError(
            f"`reward_tokenizer` is given for {name}, but not the policy's tokenizer, which is needed to compare the "
            "vocabularies and to decode the policy's tokens: pass `tokenizer=...`."
        )
    if tokenizer.get_vocab() == reward_tokenizer.get_vocab():
        return choose_scorer(model, scorer, use_cuda_graph)
    _check_name(scorer, f"{name}, which has another tokenizer than the policy and is read through text")
    return RetokenizedScorer(model, tokenizer, reward_tokenizer, scorer, eos_token_ids)


def _is_encoder(reward_model: object) -> bool:
    """Whether this is a classifier of whole texts: a pretrained model without a score at every position."""
    if not isinstance(reward_model, nn.Module) or not hasattr(reward_model, "config"):
        return False
    try:
        find_score_head(reward_model)
    except ValueError:
        return True
    return False


def _check_one_label(reward_model: PreTrainedModel) -> None:
    if reward_model.get_output_embeddings() is not None:
        raise ValueError(
            f"{type(reward_model).__name__} is a language model, which gives no reward: pass a reward model, or train "
            "one from it with PrefixRewardTrainer."
        )
    if reward_model.config.num_labels != 1:
        raise ValueError(
            f"{type(reward_model).__name__} has num_labels={reward_model.config.num_labels}, but a reward model gives "
            "one number per text: load or train it with num_labels=1, or pass a function `(prompts, responses) -> "
            "rewards` that picks one."
        )


def _check_name(scorer: str, what: str) -> None:
    if scorer not in _TEXT_SCORERS:
        raise ValueError(f"The scorer {scorer!r} does not serve {what}: choose one of {list(_TEXT_SCORERS)}.")

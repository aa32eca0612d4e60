"""Checks of the laws that every way of steering shares."""

import torch
from torch.testing import assert_close

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.tiny_models import left_padded


def assert_frequencies_match(samples, expected):
    """Draws of two tokens, shape [draws, 2], are distributed as expected, shape [vocabulary, vocabulary]."""
    draws = len(samples)
    counts = torch.zeros_like(expected)
    for first, second in samples.tolist():
        counts[first, second] += 1
    likely = expected * draws >= 5
    chi_square = ((counts - expected * draws)[likely] ** 2 / (expected * draws)[likely]).sum()
    # 99.9th percentile of a chi-square with n degrees of freedom, by Wilson and Hilferty's approximation.
    n = int(likely.sum()) - 1
    assert chi_square < n * (1 - 2 / (9 * n) + 3.09 * (2 / (9 * n)) ** 0.5) ** 3


def assert_beam_scores_telescope(policy, reward_model, processor, prompt, beta):
    """The score of a beam is its log-probability plus beta times its reward, measured from the prompt's."""
    ids, _ = left_padded([prompt])
    output = policy.generate(
        ids,
        logits_processor=[processor],
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=5,
        length_penalty=0.0,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for sequence, score in zip(output.sequences, output.sequences_scores, strict=True):
        log_probabilities = policy(sequence[None]).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        rewards = prefix_rewards(reward_model, sequence[None])[0]
        expected = log_probabilities.gather(1, sequence[ids.shape[1] :, None]).sum()
        expected = expected + beta * (rewards[-1] - rewards[ids.shape[1] - 1])
        assert_close(score, expected, atol=1e-4, rtol=1e-4)

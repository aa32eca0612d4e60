"""The law of guided decoding computed the slow way: row by row, from whole sequences without padding or cache.

It shares no code with scorers and processors. Put around a processor, it checks every step of a generation.
"""

import itertools
import math
from functools import partial

import torch
from torch.testing import assert_close
from transformers import LogitsProcessor

from rgtg_hf.config import resolve_guidance
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.tiny_models import PAD


def increments_of_sequences(model):
    """Increments by one pass over whole sequences: `(prompt, response, candidates) -> increments`."""

    @torch.no_grad()
    def increments(prompt, response, candidates):
        sequences = torch.tensor([[*prompt, *response, candidate] for candidate in candidates])
        found = prefix_rewards(model, sequences, use_cache=False).float()
        return found[:, -1] - found[0, -2]

    return increments


def increments_of_scorer(scorer):
    """Increments by a reference scorer that forgets everything between rows and steps."""

    def increments(prompt, response, candidates):
        scorer.reset()
        ids = torch.tensor([[*prompt, *response]])
        batch = PrefixBatch(ids, torch.ones_like(ids), len(prompt))
        return scorer.score(batch, torch.tensor([candidates]))[0]

    return increments


def candidates_of(scores, config):
    """The candidates of one row by their definition, the most likely first."""
    ranked = sorted(range(len(scores)), key=lambda token: -scores[token])
    ranked = [token for token in ranked if scores[token] > -math.inf][: config.top_k or None]
    if config.min_p > 0:
        ranked = [token for token in ranked if scores[token] >= scores[ranked[0]] + math.log(config.min_p)]
    if config.top_p < 1:
        total, kept = 0.0, []
        weights = torch.tensor(scores, dtype=torch.float64).softmax(-1).tolist()
        for token in ranked:
            if total < config.top_p:
                kept.append(token)
            total += weights[token]
        ranked = kept
    return ranked


def limited(scores, changes, config):
    """What is added to a row's candidates within the limits of the settings: by bisection in double precision."""
    scores, changes = scores.double(), changes.double().clamp(-config.max_increment, config.max_increment)

    def divergence(changes):
        guided, policy = (scores + changes).log_softmax(-1), scores.log_softmax(-1)
        return float((guided.exp() * (guided - policy)).sum())

    if divergence(changes) <= config.max_step_kl:
        return changes.float()
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if divergence(middle * changes) <= config.max_step_kl else (low, middle)
    return (low * changes).float()


def law(scores, increments, config):
    """The guided scores of one row.

    Args:
        scores: The policy's scores, shape `[vocabulary]`.
        increments: From a list of candidates to their increments.
        config: The resolved settings.
    """
    expected = torch.full_like(scores, -math.inf)
    candidates = candidates_of(scores.tolist(), config)
    expected[candidates] = scores[candidates]
    policy = scores[candidates].double().softmax(-1)
    entropy = -(policy * policy.log()).nan_to_num(0.0).sum()
    if config.beta != 0 and candidates and entropy >= config.min_entropy:
        expected[candidates] += limited(scores[candidates], config.beta * increments(candidates), config)
    return expected


class Checked(LogitsProcessor):
    """A processor whose every step is compared with the law.

    Args:
        processor: The processor.
        increments: As made by one of the functions above.
        prompts: What the reward model is to read as prompts: lists of ids, without padding.
        width: Columns of the policy's prompts, padding included.
        config: The settings of guidance; unset ones have their defaults.
        eos_token_ids: Ids that end a row. Rows that have ended are not checked.
        beams: Whether scores are log-probabilities that add up over steps. Otherwise a constant per row is free.
    """

    def __init__(self, processor, increments, prompts, width, config, eos_token_ids, beams):
        self.processor, self.increments, self.prompts, self.width = processor, increments, prompts, width
        self.config = resolve_guidance({}, config).config
        self.eos_token_ids, self.beams = set(eos_token_ids), beams
        self.steps = 0

    def __call__(self, input_ids, scores):
        before = scores.clone()
        found = self.processor(input_ids, scores)
        assert torch.equal(scores, before), "scores were changed in place"
        for row, ids in enumerate(input_ids.tolist()):
            response = ids[self.width :]
            if len(scores[row].unique()) <= 3:
                # Prompt lookup tries its drafts on scores of its own making: all alike, but for tokens that are
                # forbidden or have a repetition penalty.
                continue
            if self._goes_on(response):
                prompt = self.prompts[row // (len(input_ids) // len(self.prompts))]
                increments = partial(self.increments, prompt, response)
                self._compare(found[row], law(scores[row], increments, self.config))
        self.steps += 1
        return found

    def _goes_on(self, response):
        """Whether a row counts. A beam that has ended stays with a score of -1e9 and cannot be chosen any more."""
        if not self.beams:
            return self.eos_token_ids.isdisjoint(response)
        return not any(end in self.eos_token_ids and pad == PAD for end, pad in itertools.pairwise(response))

    def _compare(self, found, expected):
        assert torch.equal(found > -math.inf, expected > -math.inf), "other candidates"
        kept = expected > -math.inf
        found, expected = found[kept], expected[kept]
        if not self.beams:
            found, expected = found.log_softmax(-1), expected.log_softmax(-1)
        tolerance = 2e-4 * (1 + abs(self.config.beta))
        assert_close(found, expected, atol=tolerance, rtol=2e-4)

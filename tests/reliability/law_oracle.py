"""The law of guided decoding computed the slow way: row by row, from whole sequences without padding or cache.

It shares no code with scorers and processors. Put around a processor, it checks every step of a generation.
"""

import itertools
import math

import torch
from torch.testing import assert_close
from transformers import LogitsProcessor

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.tiny_models import PAD


def rewards_of_sequences(model):
    """Rewards by one pass over whole sequences: `(prompt, response, candidates) -> (candidates' rewards, base)`."""

    @torch.no_grad()
    def rewards(prompt, response, candidates):
        sequences = torch.tensor([[*prompt, *response, candidate] for candidate in candidates])
        found = prefix_rewards(model, sequences, use_cache=False).float()
        return found[:, -1], found[0, -2]

    return rewards


def rewards_of_scorer(scorer):
    """Rewards by a reference scorer that forgets everything between rows and steps."""

    def rewards(prompt, response, candidates):
        scorer.reset()
        ids = torch.tensor([[*prompt, *response]])
        batch = PrefixBatch(ids, torch.ones_like(ids), len(prompt), ids.shape[1])
        found = scorer.score(batch, torch.tensor([candidates]))
        return found.candidates[0], found.base[0]

    return rewards


def candidates_of(scores, config):
    """The candidates of one row by their definition, the likeliest first."""
    ranked = sorted(range(len(scores)), key=lambda token: -scores[token])
    ranked = [token for token in ranked if scores[token] > -math.inf][: config.top_k]
    if config.min_p is not None:
        ranked = [token for token in ranked if scores[token] >= scores[ranked[0]] + math.log(config.min_p)]
    if config.top_p is not None and config.top_p < 1:
        total, kept = 0.0, []
        weights = torch.tensor(scores, dtype=torch.float64).softmax(-1).tolist()
        for token in ranked:
            if total < config.top_p:
                kept.append(token)
            total += weights[token]
        ranked = kept
    return ranked


class Checked(LogitsProcessor):
    """A processor whose every step is compared with the law.

    Args:
        processor: The processor.
        rewards: As made by one of the functions above.
        prompts: What the reward model is to read as prompts: lists of ids, without padding.
        width: Columns of the policy's prompts, padding included.
        config: The settings of guidance.
        eos_token_ids: Ids that end a row. What is made of rows that have ended is nobody's business.
        beams: Whether scores are log-probabilities that add up over steps. Otherwise a constant per row is free.
        limit: What else is done to a row's increments, given the candidates' scores.
    """

    def __init__(self, processor, rewards, prompts, width, config, eos_token_ids, beams, limit=None):
        self.processor, self.rewards, self.prompts, self.width = processor, rewards, prompts, width
        self.config, self.eos_token_ids, self.beams, self.limit = config, set(eos_token_ids), beams, limit
        self.steps = 0

    def __call__(self, input_ids, scores):
        before = scores.clone()
        found = self.processor(input_ids, scores)
        assert torch.equal(scores, before), "scores were changed in place"
        for row, ids in enumerate(input_ids.tolist()):
            response = ids[self.width :]
            if len(scores[row].unique()) <= 2:
                continue  # prompt lookup tries its drafts on scores of its own making, all alike
            if self._goes_on(response):
                prompt = self.prompts[row // (len(input_ids) // len(self.prompts))]
                self._compare(found[row], self._law(prompt, response, scores[row], row))
        self.steps += 1
        return found

    def _goes_on(self, response):
        """Whether a row counts. A beam that has ended stays with a score of -1e9 and cannot be chosen any more."""
        if not self.beams:
            return self.eos_token_ids.isdisjoint(response)
        return not any(end in self.eos_token_ids and pad == PAD for end, pad in itertools.pairwise(response))

    def _law(self, prompt, response, scores, row):
        config, expected = self.config, torch.full_like(scores, -math.inf)
        candidates = candidates_of(scores.tolist(), config)
        expected[candidates] = scores[candidates]
        policy = scores[candidates].double().softmax(-1)
        entropy = -(policy * policy.log()).nan_to_num(0.0).sum()
        if config.beta != 0 and candidates and (config.min_entropy is None or entropy >= config.min_entropy):
            rewards, base = self.rewards(prompt, response, candidates)
            increments = config.beta * (rewards - base)
            expected[candidates] += self.limit(scores[candidates], increments, row) if self.limit else increments
        return expected

    def _compare(self, found, expected):
        assert torch.equal(found > -math.inf, expected > -math.inf), "other candidates"
        kept = expected > -math.inf
        found, expected = found[kept], expected[kept]
        if not self.beams:
            found, expected = found.log_softmax(-1), expected.log_softmax(-1)
        tolerance = 2e-4 * (1 + abs(self.config.beta))
        assert_close(found, expected, atol=tolerance, rtol=2e-4)

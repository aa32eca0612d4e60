"""A steering head steers a policy of any family as its increments say, row by row."""

import pytest
import torch

from rgtg_hf import steering
from tests.families import EVERY, TRIED_SINCE, tiny_language_model
from tests.tiny_models import left_padded, tiny_steering_head
from tests.versions import is_at_least

# transformers 5.5 calls its own functions by a name that it is about to retire.
pytestmark = pytest.mark.filterwarnings("ignore:`input_embeds` is deprecated:FutureWarning")
ROWS = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]


@torch.no_grad()
@pytest.mark.parametrize("family", EVERY)
def test_every_token_is_the_best_of_policy_and_head(family):
    if not is_at_least(TRIED_SINCE.get(family, "5")):
        pytest.skip("transformers' own model fails")
    policy = tiny_language_model(family)
    head = tiny_steering_head(policy, nonlinear=False)
    ids, mask = left_padded(ROWS)
    settings = {"attention_mask": mask, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with steering(policy, [(head, 1.5)], top_k=5) as processor:
        guided = policy.generate(ids, logits_processor=[processor], max_new_tokens=3, **settings)
    for row, written in zip(ROWS, guided[:, ids.shape[1] :], strict=True):
        text = torch.tensor([row])
        for token in written:
            logits = policy(text).logits[:, -1]
            candidates = logits.topk(5).indices
            steered = (logits + 1.5 * head.next_token_rewards(text)).gather(1, candidates)
            assert token == candidates[0, steered.argmax()]
            text = torch.cat([text, token.view(1, 1)], 1)

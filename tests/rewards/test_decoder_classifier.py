"""The class works by itself, as the copy in a checkpoint does. What it computes: test_sequence_classifiers.py."""

import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaPreTrainedModel

from rgtg_hf.rewards.decoder_classifier import DecoderClassifier
from rgtg_hf.rewards.prefix_rewards import prefix_rewards


class MambaForSequenceClassification(DecoderClassifier, MambaPreTrainedModel):
    base_model_prefix = "backbone"


def test_it_makes_a_classifier_of_a_recurrent_decoder_too():
    config = MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4, num_labels=3)
    model = MambaForSequenceClassification(config).eval()
    ids = torch.tensor([[5, 6, 7]])
    found = model(input_ids=ids, output_hidden_states=True)
    assert found.logits.shape == (1, 3)
    assert len(found.hidden_states) > 1
    assert torch.equal(found.logits, model.score(model.backbone(ids).last_hidden_state)[:, -1])
    assert prefix_rewards(model, ids).shape == (1, 3)

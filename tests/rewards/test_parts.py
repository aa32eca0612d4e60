import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from rgtg_hf.rewards.parts import find_backbone, find_decoder, find_score_head
from tests.families import tiny_language_model
from tests.tiny_models import tiny_encoder, tiny_policy, tiny_reward_model


def test_the_head_and_the_decoder_are_found_within_wrappers():
    model = tiny_reward_model()
    assert find_score_head(model) is model.score
    assert find_score_head(nn.ModuleDict({"module": model})) is model.score
    assert find_backbone(model) is model.model


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_head_of_an_adapter_is_its_trained_copy():
    model = get_peft_model(tiny_reward_model(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    assert find_score_head(model) is model.base_model.model.score
    assert find_backbone(model) is model.base_model.model.model


def test_an_encoder_has_no_head_at_every_position():
    with pytest.raises(ValueError, match="has no `score` head"):
        find_score_head(tiny_encoder(40))


def test_the_decoder_is_what_a_language_model_calls():
    policy = tiny_policy()
    assert find_decoder(policy) is policy.model
    opt = tiny_language_model("opt")
    assert find_decoder(opt) is opt.model.decoder

"""Each kind of reward model gets its scorer, or one clear error."""

import importlib.util

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from rgtg_hf.scoring.choose import SCORERS, choose_scorer
from rgtg_hf.scoring.combined import CombinedScorer
from rgtg_hf.scoring.make import make_scorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.siblings import SiblingScorer
from rgtg_hf.scoring.text.encoder_scorer import EncoderScorer
from rgtg_hf.scoring.text.retokenized import RetokenizedScorer
from rgtg_hf.scoring.text.sequences import WholeReader
from rgtg_hf.scoring.text.whole_texts import CallableScorer
from tests.scoring.generations import assert_equal_scores, generation
from tests.scoring.text.text_models import BYTES, PIECES, WORDS, causal, encoder_of, length, text_generation
from tests.scoring.text.tiny_tokenizers import byte_level
from tests.tiny_models import tiny_policy, tiny_reward_model


def test_a_causal_model_with_the_policys_vocabulary_reads_its_ids():
    assert type(make_scorer(causal())) is SiblingScorer
    assert type(make_scorer(causal(), tokenizer=BYTES)) is SiblingScorer
    assert type(make_scorer(causal(), tokenizer=BYTES, reward_tokenizer=byte_level())) is SiblingScorer
    assert type(make_scorer(causal(), "reference")) is ReferenceScorer


def test_a_causal_model_with_another_vocabulary_reads_text():
    scorer = make_scorer(causal(PIECES), tokenizer=BYTES, reward_tokenizer=PIECES)
    assert type(scorer) is RetokenizedScorer
    assert scorer.vocabulary_size is None
    reference = make_scorer(causal(PIECES), "reference", tokenizer=BYTES, reward_tokenizer=PIECES)
    assert type(reference.reader) is WholeReader


def test_an_encoder_reads_text():
    assert type(make_scorer(encoder_of(), tokenizer=BYTES, reward_tokenizer=WORDS)) is EncoderScorer


@pytest.mark.parametrize("encoder", ["roberta", "deberta"])
def test_every_encoder_is_told_from_a_causal_model(encoder):
    assert type(make_scorer(encoder_of(encoder), tokenizer=BYTES, reward_tokenizer=WORDS)) is EncoderScorer


def test_a_function_or_an_object_that_can_be_called_reads_text():
    class Rule:
        def __call__(self, prompts, responses):
            return length(prompts, responses)

    assert type(make_scorer(length, tokenizer=BYTES)) is CallableScorer
    assert type(make_scorer(Rule(), tokenizer=BYTES)) is CallableScorer


def test_a_list_is_combined():
    scorer = make_scorer(
        [causal(), causal(PIECES), encoder_of(), length],
        tokenizer=BYTES,
        reward_tokenizer=[None, PIECES, WORDS, None],
        weights=[1.0, np.float32(-0.5), np.int64(2), 0],
    )
    assert type(scorer) is CombinedScorer
    assert [type(one) for one in scorer.scorers] == [SiblingScorer, RetokenizedScorer, EncoderScorer, CallableScorer]
    assert scorer.weights == [1.0, -0.5, 2.0, 0.0]
    assert scorer.vocabulary_size == len(BYTES)
    one_for_all = make_scorer([causal(PIECES), length], tokenizer=BYTES, reward_tokenizer=PIECES)
    assert [type(one) for one in one_for_all.scorers] == [RetokenizedScorer, CallableScorer]
    assert one_for_all.weights == [1.0, 1.0]


def test_models_in_training_mode_are_tried_in_evaluation_mode_and_left_in_it():
    models = [causal(attention_dropout=0.5).train(), encoder_of().train()]
    scorer = make_scorer(models, tokenizer=BYTES, reward_tokenizer=[None, WORDS])
    assert isinstance(scorer.scorers[0], SiblingScorer)  # which dropout would make wrong
    assert all(model.training for model in models)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"reward_model": "my/model"}, TypeError, "`reward_model` is a str"),
        ({"reward_model": type(encoder_of())}, TypeError, "`reward_model` is a type"),
        ({"reward_model": causal(num_labels=2)}, ValueError, "num_labels=2"),
        ({"reward_model": tiny_policy()}, ValueError, "LlamaForCausalLM is a language model, which gives no reward"),
        (
            {"reward_model": encoder_of(num_labels=2), "tokenizer": BYTES, "reward_tokenizer": WORDS},
            ValueError,
            "num_labels=2",
        ),
        ({"reward_model": length}, ValueError, "reward function length reads text: pass the policy's tokenizer"),
        ({"reward_model": encoder_of()}, ValueError, "not a causal sequence classifier but an encoder"),
        ({"reward_model": encoder_of(), "reward_tokenizer": WORDS}, ValueError, "pass the policy's tokenizer"),
        ({"reward_model": causal(PIECES), "reward_tokenizer": PIECES}, ValueError, "not the policy's tokenizer"),
        ({"reward_model": causal(), "scorer": "fastest"}, ValueError, "choose one of"),
        ({"reward_model": length, "tokenizer": BYTES, "scorer": "siblings"}, ValueError, "'siblings' does not serve"),
        (
            {"reward_model": causal(PIECES), "tokenizer": BYTES, "reward_tokenizer": PIECES, "scorer": "siblings"},
            ValueError,
            "'siblings' does not serve LlamaForSequenceClassification, which has another tokenizer",
        ),
        ({"reward_model": []}, ValueError, "empty list"),
        ({"reward_model": [causal(), causal()], "weights": [1.0]}, ValueError, "1 numbers for 2 reward models"),
        ({"reward_model": causal(), "weights": [1.0]}, ValueError, "`weights` goes with a list"),
        ({"reward_model": causal(), "reward_tokenizer": [PIECES]}, ValueError, "there is one reward model"),
        (
            {"reward_model": [causal(), causal()], "reward_tokenizer": [None], "tokenizer": BYTES},
            ValueError,
            "1 entries for 2 reward models",
        ),
    ],
)
def test_what_cannot_work_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make_scorer(**arguments)


PEFT_USES_AN_OLD_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def with_lora(model):
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)  # adapters begin at zero, where they could not be missed
    return model.eval()


@PEFT_USES_AN_OLD_NAME
@pytest.mark.parametrize("name", ["auto", "expand"])
def test_lora_adapters_are_part_of_the_reward(name):
    plain = tiny_reward_model()
    before = ReferenceScorer(plain).score(*next(generation()))
    adapted = with_lora(plain)
    scorer = make_scorer(adapted, name)
    assert type(scorer) is SCORERS["siblings" if name == "auto" else name]
    assert_equal_scores(scorer, ReferenceScorer(adapted))
    scorer.reset()
    assert (scorer.score(*next(generation())) - before).abs().max() > 0.1


@PEFT_USES_AN_OLD_NAME
def test_lora_adapters_read_text():
    adapted = with_lora(causal(PIECES))
    scorer, reference = (
        make_scorer(adapted, name, tokenizer=BYTES, reward_tokenizer=PIECES) for name in ("auto", "reference")
    )
    assert type(scorer.reader) is not WholeReader
    assert_equal_scores(scorer, reference, text_generation())


def test_bfloat16_is_read_as_siblings():
    reward_model = tiny_reward_model(initializer_range=0.2).to(torch.bfloat16)
    scorer = choose_scorer(reward_model)
    assert type(scorer) is SiblingScorer
    assert_equal_scores(
        scorer, ReferenceScorer(reward_model), tolerance=0.15
    )  # 8 bits of precision, rewards of about 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("kind", ["siblings", "expand", "text", "encoder"])
def test_a_reward_model_may_be_on_another_device(kind):
    def scorer(device):
        if kind == "text":
            return make_scorer(causal(PIECES).to(device), tokenizer=BYTES, reward_tokenizer=PIECES)
        if kind == "encoder":
            return make_scorer(encoder_of().to(device), tokenizer=BYTES, reward_tokenizer=WORDS)
        return make_scorer(causal().to(device), kind)

    there, here = scorer("cuda"), scorer("cpu")
    for step in generation():
        found = there.score(*step)
        assert found.device == step[1].device
        assert_close(found, here.score(*step), atol=1e-3, rtol=1e-3)


def quantized(folder, **settings):
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    tiny_reward_model(hidden_size=64, intermediate_size=64).save_pretrained(folder)
    config = BitsAndBytesConfig(llm_int8_skip_modules=["score"], **settings)
    return AutoModelForSequenceClassification.from_pretrained(folder, quantization_config=config)


NEEDS_BITSANDBYTES = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
CASTS = pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast:UserWarning")


@CASTS
@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("settings", [{"load_in_8bit": True, "llm_int8_threshold": 0.0}, {"load_in_4bit": True}])
def test_quantized_weights_are_read(settings, tmp_path):
    reward_model = quantized(tmp_path, **settings)
    assert_equal_scores(make_scorer(reward_model), ReferenceScorer(reward_model), tolerance=0.1)


@CASTS
@NEEDS_BITSANDBYTES
def test_eight_bits_whose_rounding_looks_ahead_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"llm_int8_threshold=0\.0"):
        make_scorer(quantized(tmp_path, load_in_8bit=True))

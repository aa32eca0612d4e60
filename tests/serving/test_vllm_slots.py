"""The interface of vLLM's Model Runner V2, driven by hand as its documentation says: that runner needs a GPU."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.serving.test_vllm_offline import Alone, prompts

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

SLOTS, LONGEST, CHUNK, LENGTH = 6, 256, 24, 10
SETTINGS = [None, {"beta": 2.0, "top_k": 5}, {"beta": -3.0, "top_k": 20}]


class Runner:
    """What Model Runner V2 does with logits processors: slots that are filled anew, rows in any order."""

    def __init__(self, policy, processor_class, config, seed):
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        self.policy, self.chance = policy, random.Random(seed)
        self.tokens = torch.full((SLOTS, LONGEST), -7, dtype=torch.int32)  # of what was there before
        self.prefill = np.zeros(SLOTS, dtype=np.int32)
        state = LogitsProcRequestState(
            device=torch.device("cpu"),
            max_num_reqs=SLOTS,
            vocab_size=policy.config.vocab_size,
            all_token_ids=SimpleNamespace(gpu=self.tokens),
            prompt_len=SimpleNamespace(np=self.prefill.copy(), gpu=None),
            prefill_len=SimpleNamespace(np=self.prefill, gpu=None),
            total_len=SimpleNamespace(gpu=None),
        )
        self.processor = processor_class(config, state)
        self.free, self.running = list(range(SLOTS)), {}

    def add(self, name, ids, settings, so_far=()):
        from vllm import SamplingParams

        slot = self.free.pop(self.chance.randrange(len(self.free)))
        everything = [*ids, *so_far]
        self.tokens[slot, : len(everything)] = torch.tensor(everything, dtype=torch.int32)
        self.prefill[slot] = len(everything)
        request = SimpleNamespace(slot=slot, prompt=ids, ids=everything, computed=0, settings=settings)
        self.running[name] = request
        extra = None if settings is None else {"rgtg": settings}
        request.guided = self.processor.add_request(slot, SamplingParams(extra_args=extra))
        assert request.guided == (settings is not None)

    def remove(self, name):
        request = self.running.pop(name)
        self.free.append(request.slot)
        return request

    def step(self):
        """Some of the requests go on by a chunk of their prompt or by a token."""
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

        self.processor.apply_staged_writes()
        batch = [one for one in self.running.values() if self.chance.random() < 0.9]
        self.chance.shuffle(batch)
        if not batch:
            return
        for one in batch:
            one.computed = min(len(one.ids), one.computed + CHUNK)
        seen = [one.ids[: one.computed] for one in batch]
        logits = torch.stack([self.policy(torch.tensor([ids])).logits[0, -1] for ids in seen]).detach()
        slots = torch.tensor([one.slot for one in batch])
        context = LogitsContext(
            expanded_idx_mapping=slots,
            idx_mapping=slots,
            idx_mapping_np=slots.numpy(),
            expanded_local_pos=torch.zeros_like(slots),
            input_ids=torch.tensor([ids[-1] for ids in seen]),
            pos=torch.tensor([len(ids) - 1 for ids in seen]),
            seq_lens_upper_bound_np=np.array([len(ids) for ids in seen]),
        )
        if any(one.guided for one in batch):
            logits = self.processor.apply(logits, context)
        for one, id_ in zip(batch, logits.argmax(-1).tolist(), strict=True):
            if one.computed == len(one.ids):  # else it is still at its prompt, and chooses nothing
                one.ids.append(id_)
                self.tokens[one.slot, len(one.ids) - 1] = id_


@pytest.fixture(scope="module", params=["siblings", "next-token"])
def parts(request, models):
    from vllm.engine.arg_utils import EngineArgs

    settings = {"rgtg": {"reward_model": str(models / request.param)}}
    arguments = EngineArgs(
        str(models / "policy"), dtype="float32", max_model_len=LONGEST, max_num_seqs=SLOTS, additional_config=settings
    )
    return arguments.create_engine_config(), Alone(models, request.param)


@pytest.mark.parametrize("seed", range(3))
def test_requests_come_go_pause_and_are_preempted_in_any_order(parts, seed):
    from rgtg_hf.serving.vllm import RewardGuidance

    config, alone = parts
    chance = random.Random(seed)
    runner = Runner(alone.policy, RewardGuidance, config, seed)
    waiting = [(number, ids, chance.choice(SETTINGS)) for number, ids in enumerate(prompts(14, seed=seed))]
    finished = 0
    while waiting or runner.running:
        while waiting and runner.free and chance.random() < 0.5:
            runner.add(*waiting.pop())
        if runner.running and chance.random() < 0.05:
            runner.remove(chance.choice(list(runner.running)))  # cancelled
        if runner.running and chance.random() < 0.1:
            name = chance.choice(list(runner.running))
            gone = runner.remove(name)  # preempted
            runner.add(name, gone.prompt, gone.settings, gone.ids[len(gone.prompt) :])
        runner.step()
        for name, one in list(runner.running.items()):
            response = one.ids[len(one.prompt) :]
            if len(response) == LENGTH or (response and response[-1] == 2):
                assert response == alone(one.prompt, one.settings, LENGTH)
                runner.remove(name)
                finished += 1
    assert finished > 6
    for _ in range(2):
        runner.step()
    assert runner.processor.batch.scorer.row_count == 0
    assert not runner.processor.batch.scorer.reader.buffer.layers

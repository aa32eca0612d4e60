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

    def __init__(self, policy, processor_class, config, seed, most_drafts=0):
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        self.policy, self.chance, self.most_drafts, self.drafts_taken = policy, random.Random(seed), most_drafts, 0
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
        rows = []  # what each row reads, and how many drafts of its request are before it
        for one in batch:
            one.computed = min(len(one.ids), one.computed + CHUNK)
            one.drafts = self.drafts_of(one) if one.computed == len(one.ids) else []
            rows += [(one, one.ids[: one.computed] + one.drafts[:n], n) for n in range(len(one.drafts) + 1)]
        logits = torch.stack([self.policy(torch.tensor([ids])).logits[0, -1] for _, ids, _ in rows]).detach()
        slots = torch.tensor([one.slot for one in batch])
        context = LogitsContext(
            expanded_idx_mapping=torch.tensor([one.slot for one, _, _ in rows]),
            idx_mapping=slots,
            idx_mapping_np=slots.numpy(),
            expanded_local_pos=torch.tensor([n for _, _, n in rows]),
            input_ids=torch.tensor([ids[-1] for _, ids, _ in rows]),
            pos=torch.tensor([len(ids) - 1 for _, ids, _ in rows]),
            seq_lens_upper_bound_np=np.array([one.computed + len(one.drafts) for one in batch]),
        )
        if any(one.guided for one in batch):
            logits = self.processor.apply(logits, context)
        chosen = iter(logits.argmax(-1).tolist())
        for one in batch:
            own = [next(chosen) for _ in range(len(one.drafts) + 1)]
            if one.computed < len(one.ids):  # it is still at its prompt, and chooses nothing
                continue
            right = next((n for n, draft in enumerate(one.drafts) if own[n] != draft), len(one.drafts))
            self.drafts_taken += right
            for id_ in own[: right + 1]:
                one.ids.append(id_)
                self.tokens[one.slot, len(one.ids) - 1] = id_
            one.computed = len(one.ids) - 1

    def drafts_of(self, one):
        """Guesses of what comes: the policy's own, or any token."""
        ids, count = list(one.ids), self.chance.randrange(self.most_drafts + 1)
        for _ in range(count):
            likely = int(self.policy(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(likely if self.chance.random() < 0.7 else self.chance.randrange(3, 250))
        return ids[len(one.ids) :]


@pytest.fixture(scope="module", params=["siblings", "next-token"])
def parts(request, models):
    from vllm.engine.arg_utils import EngineArgs

    settings = {"rgtg": {"reward_model": str(models / request.param)}}
    arguments = EngineArgs(
        str(models / "policy"), dtype="float32", max_model_len=LONGEST, max_num_seqs=SLOTS, additional_config=settings
    )
    return arguments.create_engine_config(), Alone(models, request.param)


@pytest.mark.parametrize(("seed", "most_drafts"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 3), (5, 5)])
def test_requests_come_go_pause_and_are_preempted_in_any_order(parts, seed, most_drafts):
    from rgtg_hf.serving.vllm import RewardGuidance

    config, alone = parts
    chance = random.Random(seed)
    runner = Runner(alone.policy, RewardGuidance, config, seed, most_drafts)
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
            response = response[: response.index(2) + 1] if 2 in response else response[:LENGTH]
            if len(response) == LENGTH or (response and response[-1] == 2):
                assert response == alone(one.prompt, one.settings, LENGTH)
                runner.remove(name)
                finished += 1
    assert finished > 6
    assert (runner.drafts_taken > 5) == (most_drafts > 0)
    for _ in range(2):
        runner.step()
    assert runner.processor.batch.scorer.row_count == 0
    assert not runner.processor.batch.scorer.reader.buffer.layers

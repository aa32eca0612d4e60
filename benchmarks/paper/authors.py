"""The authors' own setting: their policy, reward model, data and strengths, for summaries (TL;DR) or dialogues (HH).

    python -m benchmarks.paper.authors tldr                 with access to the hub and a GPU
    python -m benchmarks.paper.authors tldr --stand_ins     with small random models of the same classes, and own data

The partial reward model continues the training of the reward model on prefixes. PARGS samples with beta 2, PARGS-G and
ARGS are greedy with beta 1, and best-of-10 chooses by the reward model before that training, which is also the judge,
as in the paper. The settings are those of the code that the authors released (github.com/ahmadrash/PARGS). What is
done in another way is on the page docs/paper-table.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.estimates import estimate
from benchmarks.models import QUIET
from benchmarks.paper.stand_ins import make_stand_ins
from benchmarks.record import record
from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer, RewardGuidedLogitsProcessor
from rgtg_hf.cli.demo.demo_rows import preference_pairs
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.evaluation.best_of import best_of_n
from rgtg_hf.evaluation.gold_models import load_gold
from rgtg_hf.evaluation.prompts import encode_batch
from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids, sample_responses
from rgtg_hf.files import write_whole
from rgtg_hf.rewards.named import load_named

Row = dict[str, str]
TOP_K, NEW_TOKENS, PROMPTS, BEST_OF, SEED = 10, 64, 100, 10, 42
METHODS = ("policy", "args", "pargs_greedy", "pargs", "best_of_n")
BETAS = {"args": 1.0, "pargs_greedy": 1.0, "pargs": 2.0}


@dataclass(frozen=True)
class Setting:
    """A task of the paper.

    Attributes:
        policy: The policy.
        reward_model: The reward model that is trained further, and the judge.
        pairs: How many pairs it is trained on.
        shortest: Pairs whose longer response has fewer tokens are left out.
        learning_rate: Of that training.
        training_rows: The data set's pairs: `prompt`, `chosen`, `rejected`.
        prompts: The prompts of the comparison.
    """

    policy: str
    reward_model: str
    pairs: int
    shortest: int
    learning_rate: float
    training_rows: Callable[[], Iterable[Row]]
    prompts: Callable[[], Iterable[str]]


def summaries() -> Iterable[Row]:
    """Pairs of summaries of posts."""
    rows = datasets.load_dataset("openai/summarize_from_feedback", "comparisons", split="train").shuffle(seed=SEED)
    for row in rows:
        if row["info"]["post"]:
            better, worse = row["summaries"][row["choice"]]["text"], row["summaries"][1 - row["choice"]]["text"]
            yield {"prompt": f'Content: "{row["info"]["post"]}"\nSummary: ', "chosen": better, "rejected": worse}


def posts() -> Iterable[str]:
    """Posts to summarize, as the authors' policy reads them."""
    for row in datasets.load_dataset("CarperAI/openai_summarize_tldr", split="test").shuffle(seed=SEED):
        yield "Context: " + row["prompt"]


def dialogues(split: str) -> Iterable[Row]:
    """Pairs of last answers in dialogues."""
    for row in datasets.load_dataset("Anthropic/hh-rlhf", split=split).shuffle(seed=SEED):
        prompt, _, chosen = row["chosen"].rpartition("\n\nAssistant: ")
        _, _, rejected = row["rejected"].rpartition("\n\nAssistant: ")
        yield {"prompt": f"{prompt}\n\nAssistant: ", "chosen": chosen, "rejected": rejected}


SETTINGS = {
    "tldr": Setting(
        policy="vistagi/gpt2-large-tldr-sum",
        reward_model="OpenAssistant/reward-model-deberta-v3-large",
        pairs=8192,
        shortest=21,
        learning_rate=5e-6,
        training_rows=summaries,
        prompts=posts,
    ),
    "hh": Setting(
        policy="argsearch/llama-7b-sft-float32",
        reward_model="OpenAssistant/reward-model-deberta-v3-large-v2",
        pairs=2048,
        shortest=0,
        learning_rate=5e-5,
        training_rows=partial(dialogues, "train"),
        prompts=lambda: (row["prompt"] for row in dialogues("test")),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SETTINGS)
    parser.add_argument("--folder", type=Path, help="where finished parts are kept (default: outputs/authors/TASK)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    parser.add_argument("--stand_ins", action="store_true", help="small random models, 16 pairs and 4 prompts")
    parser.add_argument("--batch_size", type=int, default=10, help="prompts decoded together")
    parser.add_argument("--per_device_train_batch_size", type=int, default=1, help="pairs, each with all its prefixes")
    options = parser.parse_args()
    setting, name = SETTINGS[options.task], options.task
    folder = options.folder or Path("outputs/authors") / (f"{name}-stand-ins" if options.stand_ins else name)
    folder.mkdir(parents=True, exist_ok=True)
    used: dict[str, Any] = {"task": name, "stand_ins": options.stand_ins, "betas": BETAS}
    if options.stand_ins:
        setting = with_stand_ins(setting, folder)
    else:
        used |= {"policy": setting.policy, "reward_model": setting.reward_model}
    prompts = list(islice(setting.prompts(), PROMPTS))
    partial_model = folder / "partial_reward_model"
    if not partial_model.exists():
        train(setting, partial_model, options.per_device_train_batch_size)
    reward_models = {"args": setting.reward_model, "pargs": str(partial_model)}
    results = compare(folder, setting.policy, reward_models, prompts, options.batch_size)
    print(record(f"authors_{name}", used | {"pairs": setting.pairs, "prompts": len(prompts)}, results, options.output))


def with_stand_ins(setting: Setting, folder: Path) -> Setting:
    """The setting with small random models and the demo's pairs as text, for a trial without the hub."""
    rows = [
        {"prompt": row["prompt"][0]["content"] + "\n"}
        | {name: row[name][0]["content"] for name in ("chosen", "rejected")}
        for row in preference_pairs()
    ]
    policy, reward_model = make_stand_ins(folder, rows)
    return replace(
        setting,
        policy=policy,
        reward_model=reward_model,
        pairs=16,
        training_rows=lambda: rows,
        prompts=lambda: (row["prompt"] for row in rows[-4:]),
    )


def train(setting: Setting, folder: Path, batch_size: int) -> None:
    """Trains the reward model further, on every prefix of every pair."""
    tokenizer = AutoTokenizer.from_pretrained(setting.reward_model)

    def is_long_enough(row: Row) -> bool:
        lengths = [len(tokenizer(row[side], add_special_tokens=False)["input_ids"]) for side in ("chosen", "rejected")]
        return max(lengths) >= setting.shortest

    used = [row for row in islice(setting.training_rows(), setting.pairs) if is_long_enough(row)]
    args = PrefixRewardConfig(
        **QUIET | {"disable_tqdm": False, "bf16": torch.cuda.is_available()},
        output_dir=str(folder.with_suffix(".training")),
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=256 // batch_size,
        learning_rate=setting.learning_rate,
        max_length=512,
        prefixes="all",
        seed=SEED,
    )
    trainer = PrefixRewardTrainer(
        setting.reward_model, args, train_dataset=datasets.Dataset.from_list(used), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(str(folder))


def compare(
    folder: Path, policy_name: str, reward_models: dict[str, str], prompts: list[str], batch_size: int
) -> list[dict[str, Any]]:
    """Writes the responses of each method, as far as they are not there, and judges them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = AutoModelForCausalLM.from_pretrained(policy_name, dtype="auto").to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(policy_name)
    judge = load_gold(reward_models["args"], device=device)
    results = []
    for method in METHODS:
        file = folder / f"{method}.json"
        if not file.exists():
            respond = Respond(policy, tokenizer, reward_models, judge, method)
            rows = [
                row for start in range(0, len(prompts), batch_size) for row in respond(prompts[start:][:batch_size])
            ]
            write_whole(file, json_lines(rows))
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        reward = estimate(judge([row["prompt"] for row in rows], [row["response"] for row in rows]))
        kl, seconds = fmean(row["kl"] for row in rows), sum(row["seconds"] for row in rows)
        tokens = sum(row["tokens"] for row in rows)
        found = {"method": method, "beta": BETAS.get(method), "reward": reward, "kl": kl, "seconds": seconds}
        results.append(found | {"tokens_per_s": tokens / seconds})
        print(f"{method:14} reward {reward[0]:7.3f} ± {reward[1]:.3f}  kl {kl:6.2f}  {seconds:6.0f} s", flush=True)
    return results


class Respond:
    """Responses of one method to a batch of prompts.

    Args:
        policy: The policy.
        tokenizer: Its tokenizer.
        reward_models: Names: `args` of the one for whole responses, `pargs` of the one for prefixes.
        judge: What best-of-n chooses by.
        method: One of `METHODS`.
    """

    def __init__(self, policy: Any, tokenizer: Any, reward_models: dict[str, str], judge: Any, method: str) -> None:
        self.policy, self.tokenizer, self.judge, self.method = policy, tokenizer, judge, method
        name = reward_models.get(method.removesuffix("_greedy"))
        self.reward_model = load_named(name, policy.device) if name else None

    def __call__(self, prompts: list[str]) -> list[dict[str, Any]]:
        """Rows with the response, its divergence and its share of the time."""
        inputs = dict(encode_batch(self.tokenizer, prompts, chat_template=False).to(self.policy.device))
        shared: dict[str, Any] = {"top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "seed": SEED}
        if self.method == "best_of_n":
            drawn = sample_responses(self.policy, self.tokenizer, inputs, responses_per_prompt=BEST_OF, **shared)
            rewards = self.judge([prompt for prompt in prompts for _ in range(BEST_OF)], drawn.texts)
            places = best_of_n(list(rewards), BEST_OF)
        else:
            drawn = self._guided(inputs, shared)
            places = list(range(len(prompts)))
        return [
            {
                "prompt": prompt,
                "response": drawn.texts[place],
                "kl": drawn.divergences[place],
                "tokens": len(drawn.ids[place]),
                "seconds": drawn.seconds / len(prompts),
            }
            for prompt, place in zip(prompts, places, strict=True)
        ]

    def _guided(self, inputs: dict[str, Any], shared: dict[str, Any]) -> SampledResponses:
        processor = None
        if self.reward_model is not None:
            processor = RewardGuidedLogitsProcessor(
                self.reward_model.model,
                BETAS[self.method],
                TOP_K,
                attention_mask=inputs["attention_mask"],
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=end_token_ids(self.policy),
                tokenizer=self.tokenizer,
                reward_tokenizer=self.reward_model.tokenizer,
            )
        greedy = self.method in ("args", "pargs_greedy")
        return sample_responses(self.policy, self.tokenizer, inputs, processor=processor, greedy=greedy, **shared)


if __name__ == "__main__":
    main()

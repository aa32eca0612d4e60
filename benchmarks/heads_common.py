"""What the benchmarks of heads share: data, splits, training, sampling."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
from cpu_training import ON_CPU
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, set_seed
from transformers.utils import logging

from rgtg_hf import NextTokenRewardModel, PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.cli.demo_policy import demo_policy_path
from rgtg_hf.cli.demo_rows import evaluation_prompts, preference_pairs, tokenize_pair
from rgtg_hf.evaluation.divergence import DivergenceRecorder
from rgtg_hf.evaluation.gold import vader_sentiment

MAX_NEW_TOKENS = 48
TOP_K = 10
# Training of a steering head.
HEAD: dict[str, Any] = {
    "learning_rate": 3e-3,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "weight_decay": 0.1,
}


def load_policy() -> tuple[Any, Any]:
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    path = demo_policy_path()
    return AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval(), AutoTokenizer.from_pretrained(path)


def load_pairs(tokenizer: Any) -> list[dict[str, Any]]:
    """The demo's pairs, tokenized."""
    return [tokenize_pair(row, tokenizer) for row in preference_pairs()]


def held_out_prompts() -> list[str]:
    """The demo's evaluation prompts and sixty more; no training pair has any of them."""
    more = (Path(__file__).parent / "heads_prompts.txt").read_text(encoding="utf-8").splitlines()
    return [*evaluation_prompts(), *more]


def train_head(
    head: NextTokenRewardModel,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    states: str,
    *,
    seed: int,
    evaluation: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Trains a head with the trainer of the package; returns its metrics on held-out pairs, if there are any."""
    columns = ("chosen_ids", "rejected_ids", "prompt_length")

    def dataset(rows):
        return datasets.Dataset.from_list([{column: row[column] for column in columns} for row in rows])

    defaults = (
        ON_CPU
        | HEAD
        | {
            "max_length": None,
            "gradient_checkpointing": False,
            "hidden_states_dir": states,
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = PrefixRewardTrainer(
            model=head,
            args=PrefixRewardConfig(output_dir=scratch, **defaults | settings),
            train_dataset=dataset(rows),
            eval_dataset=dataset(evaluation) if evaluation else None,
            processing_class=tokenizer,
        )
        trainer.train()
        head.eval()
        if not evaluation:
            return {}
        metrics = trainer.evaluate()
        training = trainer.evaluate(trainer.train_dataset)
    names = ("loss", "accuracy", "accuracy_at_25", "accuracy_at_50", "accuracy_at_75", "accuracy_at_100")
    return {name: metrics[f"eval_{name}"] for name in names} | {"train_loss": training["eval_loss"]}


def sample(
    policy: Any,
    tokenizer: Any,
    prompts: list[str],
    processor: LogitsProcessor | None,
    seed: int,
    batch_size: int = 128,
) -> dict[str, list[Any]]:
    """One response per prompt at temperature 1 from TOP_K candidates: gold reward, exact divergence, text and ids."""
    results: dict[str, list[Any]] = {"gold": [], "kl": [], "texts": [], "ids": [], "prompt_ids": []}
    set_seed(seed)
    eos = policy.generation_config.eos_token_id
    for start in range(0, len(prompts), batch_size):
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + batch_size]]
        tokenizer.padding_side = "left"
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        if processor is not None and hasattr(processor, "reset"):
            processor.reset(inputs["attention_mask"])
        recorder = None if processor is None else DivergenceRecorder(processor)
        with torch.inference_mode():
            output = policy.generate(
                **inputs,
                do_sample=True,
                top_k=TOP_K,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=MAX_NEW_TOKENS,
                logits_processor=[] if recorder is None else [recorder],
            )
        ids = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        results["texts"] += texts
        results["ids"] += [until_end(row, eos) for row in ids.tolist()]
        masks = inputs["attention_mask"].bool()
        results["prompt_ids"] += [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)]
        results["gold"] += vader_sentiment(texts)
        results["kl"] += [0.0] * len(ids) if recorder is None else recorder.divergences(ids, [eos]).tolist()
    return results


def until_end(ids: list[int], eos: int) -> list[int]:
    """A response without the padding behind its end token."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def distinct_2(texts: list[str]) -> float:
    """Different pairs of neighbouring words among all of a text's, averaged over texts."""
    shares = []
    for text in texts:
        words = text.lower().split()
        pairs = list(itertools.pairwise(words))
        if pairs:
            shares.append(len(set(pairs)) / len(pairs))
    return sum(shares) / len(shares)


@contextlib.contextmanager
def quiet_trainer():
    """The trainer prints its final metrics; a sweep of many would drown its own table."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield

"""What does a step of prefix training cost, next to ordinary reward training and to the expanded data set?

    python -m benchmarks.training.cost [--model NAME] [--lengths 16 48 128 256]

Two comparisons on the same pairs of random tokens, as ratios within one run:

1. The time and peak memory of a step (forward, backward, optimizer) of `PrefixRewardTrainer` and of TRL's
   `RewardTrainer`. Steps of the two alternate, so that other work on the machine affects them alike.
2. The gradients of one step and those of the expanded data set, in which each pair of prefixes is an example of its
   own (sorted by length and batched, which favours it): time, and the largest difference of gradients relative to
   the largest gradient.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import RewardConfig, RewardTrainer

from benchmarks.models import QUIET
from benchmarks.record import record, refuse_uncommitted_code
from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.training.models import load_for_training

VOCAB = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint (default: a random Llama of 4 layers)")
    parser.add_argument("--num_layers", type=int, help="first layers of the checkpoint")
    parser.add_argument("--hidden_size", type=int, default=256, help="width of the random model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 48, 128, 256], help="tokens per response")
    parser.add_argument("--prompt", type=int, default=32, help="tokens per prompt")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step")
    parser.add_argument("--expanded_pairs", type=int, default=2, help="pairs in the comparison with the expanded set")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    args = parser.parse_args()
    if args.output is None:
        refuse_uncommitted_code("give --output FOLDER")
    disable_progress_bars()

    rows = []
    for length in args.lengths:
        row = {"response_tokens": length} | step_cost(args, length) | against_expanded(args, length)
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        rows.append(row)
    settings = {key: value for key, value in vars(args).items() if key not in {"output", "model"}}
    settings["model"] = Path(args.model).name if args.model else "random Llama, 4 layers"
    print(record("train", settings, rows, args.output))


def make_model(args: argparse.Namespace) -> Any:
    torch.manual_seed(args.seed)
    if args.model:
        return load_for_training(args.model, args.num_layers, seed=args.seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=args.hidden_size,
        intermediate_size=2 * args.hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_labels=1,
        pad_token_id=0,
    )
    return LlamaForSequenceClassification(config)


def make_rows(args: argparse.Namespace, pairs: int, length: int) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(args.seed)

    def ids(number: int) -> list[int]:
        return torch.randint(3, VOCAB, (number,), generator=generator).tolist()

    rows = []
    for _ in range(pairs):
        prompt = ids(args.prompt)
        rows.append(
            {"chosen_ids": prompt + ids(length), "rejected_ids": prompt + ids(length), "prompt_length": args.prompt}
        )
    return rows


def make_trainer(args: argparse.Namespace, kind: str, pairs: int, length: int, folder: str) -> Any:
    trainer_class, config_class = {
        "prefix": (PrefixRewardTrainer, PrefixRewardConfig),
        "trl": (RewardTrainer, RewardConfig),
    }[kind]
    config = config_class(
        folder,
        per_device_train_batch_size=pairs,
        gradient_checkpointing=False,
        max_length=None,
        seed=args.seed,
        **QUIET,
    )
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"t{i}": i for i in range(3, VOCAB)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), pad_token="<pad>", eos_token="</s>"
    )
    trainer = trainer_class(
        make_model(args),
        config,
        train_dataset=Dataset.from_list(make_rows(args, pairs, length)),
        processing_class=tokenizer,
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def make_step(trainer: Any) -> Any:
    """One step as in the training loop, except for collating the batch."""
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> None:
        samples, total = trainer.get_batch_samples(iter([dict(batch)]), 1, trainer.args.device)
        trainer.training_step(trainer.model, samples[0], num_items_in_batch=total)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def step_cost(args: argparse.Namespace, length: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        steps = {kind: make_step(make_trainer(args, kind, args.pairs, length, folder)) for kind in ("trl", "prefix")}
        times: dict[str, list[float]] = {kind: [] for kind in steps}
        for repeat in range(args.repeats + 2):
            for kind in sorted(steps, reverse=bool(repeat % 2)):
                start = time.perf_counter()
                steps[kind]()
                _synchronize()
                if repeat >= 2:  # the first two warm up
                    times[kind].append(time.perf_counter() - start)
    ratios = [prefix / trl for prefix, trl in zip(times["prefix"], times["trl"], strict=True)]
    memory = {kind: _in_a_process(args, kind, length) for kind in ("trl", "prefix")}
    return {
        "trl_step_s": statistics.median(times["trl"]),
        "prefix_step_s": statistics.median(times["prefix"]),
        "time_ratio": statistics.median(times["prefix"]) / statistics.median(times["trl"]),
        "time_ratio_se": statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan"),
        "trl_peak_mb": memory["trl"],
        "prefix_peak_mb": memory["prefix"],
        "memory_ratio": memory["prefix"] / memory["trl"],
    }


def _in_a_process(args: argparse.Namespace, kind: str, length: int) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_memory, (args, kind, length))


def peak_memory(args: argparse.Namespace, kind: str, length: int) -> float:
    """The peak memory of a step in MB: of the process on a CPU, of the tensors on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        step = make_step(make_trainer(args, kind, args.pairs, length, folder))
        step()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            step()
            return torch.cuda.max_memory_allocated() / 1e6
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
        step()
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def against_expanded(args: argparse.Namespace, length: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, "prefix", args.expanded_pairs, length, folder)
        model = trainer.model
        batch = next(iter(trainer.get_train_dataloader()))

        def one_pass() -> None:
            model.zero_grad()
            samples, total = trainer.get_batch_samples(iter([dict(batch)]), 1, trainer.args.device)
            trainer.training_step(model, samples[0], num_items_in_batch=total)

        def expanded() -> None:
            model.zero_grad()
            expanded_gradients(model, make_rows(args, args.expanded_pairs, length))

        one_pass()
        one_pass_s = min(_time(one_pass) for _ in range(3))
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        expanded_s = _time(expanded)
        largest = max(gradient.abs().max() for gradient in gradients)
        difference = max((p.grad - g).abs().max() for p, g in zip(model.parameters(), gradients, strict=True))
    return {
        "one_pass_s": one_pass_s,
        "expanded_s": expanded_s,
        "times_faster": expanded_s / one_pass_s,
        "gradient_difference": (difference / largest).item(),
    }


def expanded_gradients(model: Any, rows: list[dict[str, Any]], batch_size: int = 8) -> None:
    """Backpropagates the mean loss over the expanded data set, in batches of similar lengths, by pooled rewards."""
    examples = [
        (row["chosen_ids"][:end], row["rejected_ids"][:end])
        for row in rows
        for end in range(row["prompt_length"] + 1, len(row["chosen_ids"]) + 1)
    ]
    examples.sort(key=lambda pair: len(pair[0]))
    model.train()
    device = next(model.parameters()).device
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        sequences = [chosen for chosen, _ in batch] + [rejected for _, rejected in batch]
        longest = max(map(len, sequences))
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in sequences], device=device)
        rewards = model(input_ids=ids, attention_mask=(ids != 0).long(), use_cache=False).logits[:, 0]
        chosen, rejected = rewards.chunk(2)
        (-F.logsigmoid(chosen - rejected).sum() / len(examples)).backward()


def _time(function: Any) -> float:
    start = time.perf_counter()
    function()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

"""Makes the demo's preference pairs from the policy's own samples.

For each training prompt the policy writes a few responses; VADER's compound sentiment is the gold reward; the pairs
are two responses to one prompt whose gold rewards differ clearly. The evaluation prompts are never sampled from.

    python benchmarks/make_demo_data.py

reads rgtg_hf/cli/demo_data/prompts.jsonl and settings.json, and writes pairs.jsonl beside them. Two machines agree on
the samples only as far as their floating-point kernels do, so the pairs are kept in the repository. It takes about
five minutes on two cores.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from rgtg_hf.cli.demo_policy import demo_policy_path

FOLDER = Path(__file__).parents[1] / "rgtg_hf" / "cli" / "demo_data"


def sample_responses(model, tokenizer, prompts, settings):
    """Draws the responses of all prompts: a list, per prompt, of (text, finished)."""
    tokenizer.padding_side = "left"
    set_seed(settings["seed"])
    responses = []
    for start in range(0, len(prompts), settings["prompts_per_batch"]):
        batch = prompts[start : start + settings["prompts_per_batch"]]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in batch],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=settings["temperature"],
                top_k=settings["top_k"],
                max_new_tokens=settings["max_new_tokens"],
                num_return_sequences=settings["responses_per_prompt"],
            )
        ids = output[:, inputs["input_ids"].shape[1] :].tolist()
        texts = [read_response(row, tokenizer) for row in ids]
        count = settings["responses_per_prompt"]
        responses += [texts[i : i + count] for i in range(0, len(texts), count)]
        print(f"{start + len(batch)}/{len(prompts)} prompts", flush=True)
    return responses


def read_response(ids, tokenizer):
    """The text of a sampled response and whether it ended by itself; None if the text does not give its ids back."""
    finished = tokenizer.eos_token_id in ids
    if finished:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    # Training reads text and decoding reads ids: only what is the same either way is kept.
    same = tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    return (text, finished) if same and text.strip() else None


def make_pairs(prompts, responses, settings):
    """All pairs of responses to one prompt with a clear difference in gold reward."""
    analyzer = SentimentIntensityAnalyzer()
    rows = []
    for prompt, texts in zip(prompts, responses, strict=True):
        scored = [
            (analyzer.polarity_scores(text)["compound"], text, finished) for text, finished in filter(None, texts)
        ]
        for first, second in combinations(scored, 2):
            (high, chosen, chosen_ended), (low, rejected, rejected_ended) = sorted((first, second), reverse=True)
            if high - low >= settings["smallest_gap"]:
                rows.append(
                    {
                        "prompt": [{"role": "user", "content": prompt}],
                        "chosen": [{"role": "assistant", "content": chosen}],
                        "rejected": [{"role": "assistant", "content": rejected}],
                        "chosen_finished": chosen_ended,
                        "rejected_finished": rejected_ended,
                        "chosen_gold": round(high, 4),
                        "rejected_gold": round(low, 4),
                    }
                )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, help="a file for the samples; one that exists is read instead")
    arguments = parser.parse_args()
    settings = json.loads((FOLDER / "settings.json").read_text(encoding="utf-8"))
    lines = (FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [row["prompt"] for row in map(json.loads, lines) if row["split"] == "train"]

    if arguments.samples and arguments.samples.exists():
        responses = json.loads(arguments.samples.read_text(encoding="utf-8"))
    else:
        path = demo_policy_path()
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        responses = sample_responses(model, AutoTokenizer.from_pretrained(path), prompts, settings)
        if arguments.samples:
            arguments.samples.write_text(json.dumps(responses), encoding="utf-8")

    rows = make_pairs(prompts, responses, settings)
    with (FOLDER / "pairs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    finished = sum(row["chosen_finished"] + row["rejected_finished"] for row in rows)
    print(f"{len(rows)} pairs; {finished} of {2 * len(rows)} responses ended by themselves")


if __name__ == "__main__":
    main()

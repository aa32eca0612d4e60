"""Makes the demo's preference pairs from the policy's own samples.

    python -m benchmarks.training.demo_data

The policy writes a few responses to each training prompt, and VADER's compound sentiment is the gold reward. A pair is
two responses to one prompt whose gold rewards differ clearly. The evaluation prompts are never used.

The script reads prompts.jsonl and settings.json in rgtg_hf/cli/demo/demo_data and writes pairs.jsonl beside them.
Samples depend on the machine's floating-point kernels, so the pairs are kept in the repository. It takes about five
minutes on two cores.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import torch
from transformers import set_seed

from benchmarks.models import load_policy
from rgtg_hf.cli.demo.demo_rows import training_prompts
from rgtg_hf.evaluation.gold import vader_sentiment

FOLDER = Path(__file__).parents[2] / "rgtg_hf" / "cli" / "demo" / "demo_data"


def sample_responses(model, tokenizer, prompts, settings):
    """Samples responses to all prompts: for each prompt a list of `read_response` of each."""
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
    """The text of a response and whether it ended by itself, or None if tokenizing the text gives other ids."""
    finished = tokenizer.eos_token_id in ids
    if finished:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    # Training reads text and decoding reads ids, so a response must be the same either way.
    same = tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    return (text, finished) if same and text.strip() else None


def make_pairs(prompts, responses, gold, *, smallest_gap):
    """All pairs of responses to one prompt whose gold rewards differ by at least `smallest_gap`."""
    rows = []
    for prompt, of_prompt in zip(prompts, responses, strict=True):
        usable = [response for response in of_prompt if response]
        scored = [
            (reward, *response) for reward, response in zip(gold([text for text, _ in usable]), usable, strict=True)
        ]
        for first, second in combinations(scored, 2):
            (high, chosen, chosen_ended), (low, rejected, rejected_ended) = sorted((first, second), reverse=True)
            if high - low >= smallest_gap:
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, help="the file of the samples; they are read from it if it exists")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder of pairs.jsonl")
    arguments = parser.parse_args()
    settings = json.loads((FOLDER / "settings.json").read_text(encoding="utf-8"))
    prompts = training_prompts()
    if arguments.samples and arguments.samples.exists():
        responses = json.loads(arguments.samples.read_text(encoding="utf-8"))
    else:
        responses = sample_responses(*load_policy(), prompts, settings)
        if arguments.samples:
            arguments.samples.write_text(json.dumps(responses), encoding="utf-8")
    rows = make_pairs(prompts, responses, vader_sentiment, smallest_gap=settings["smallest_gap"])
    with (arguments.output / "pairs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    finished = sum(row["chosen_finished"] + row["rejected_finished"] for row in rows)
    print(f"{len(rows)} pairs; {finished} of {2 * len(rows)} responses ended by themselves")


if __name__ == "__main__":
    main()

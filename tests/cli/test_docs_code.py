"""Runs every code block of the README and of the documentation, and every example.

The code runs exactly as it is printed. Where it names a model or a data set on the hub, a folder of that name stands
in the working directory, with a tiny random one in it. What needs the network or another environment (make, pip) is
checked for what can be known here: that the target, the extra or the program exists.
"""

import configparser
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import huggingface_hub
import pytest
import yaml
from transformers import BertConfig, BertForSequenceClassification, LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf.cli.main import main
from rgtg_hf.decoding.hub import write_custom_generate
from tests.cli.conftest import byte_tokenizer, save
from tests.tiny_models import tiny_steering_head

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SNIPPET = re.compile(r'^--8<-- "([^":]+)"\n', re.MULTILINE)
OTHER_PROGRAMS = {"cd", "git", "hf", "pre-commit", "python"}
NO_CODE = {"text", "bibtex"}


def blocks_of(page):
    return BLOCK.findall(page.read_text("utf-8"))


# A playground runs until it is stopped: tests/cli/test_inspect_page.py runs the blocks of that page.
# vLLM and SGLang are not in this environment: test_vllm_page.py and test_sglang.py of tests/serving run their pages.
ELSEWHERE = {ROOT / "docs" / page for page in ("inspect.md", "how-to/vllm.md", "how-to/sglang.md")}
WITH_CODE = [
    page for page in PAGES if page not in ELSEWHERE and any(language not in NO_CODE for language, _ in blocks_of(page))
]

pytestmark = [
    # The page trains on a machine without a GPU.
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    # PEFT asks transformers a question by a name that transformers is about to retire.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Folders with the names that the pages use."""
    root = tmp_path_factory.mktemp("stand_ins")
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    own, foreign = byte_tokenizer(), byte_tokenizer(extra=["xy"])
    policy = root / "HuggingFaceTB/SmolLM2-135M-Instruct"
    save(policy, LlamaForCausalLM, own, 1, num_hidden_layers=11, **tiny)
    head = tiny_steering_head(LlamaForCausalLM.from_pretrained(policy), 4, nonlinear=False)
    head.save_pretrained(root / "my-head")
    for name in ("outputs/demo/reward_model", "reward_model", "owner/my-reward-model"):
        save(root / name, LlamaForSequenceClassification, own, 2, num_labels=1, **tiny)
        write_custom_generate(root / name)
        (root / name / "README.md").write_text("---\ntags: []\n---\n\n# A reward model\n")
    other = root / "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
    save(other, LlamaForSequenceClassification, foreign, 3, num_labels=1, **tiny)
    encoder = root / "OpenAssistant/reward-model-deberta-v3-base"
    config = BertConfig(vocab_size=len(foreign), num_hidden_layers=2, num_labels=1, pad_token_id=0, **tiny)
    BertForSequenceClassification(config).save_pretrained(encoder)
    foreign.save_pretrained(encoder)
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
    (root / "trl-lib/ultrafeedback_binarized").mkdir(parents=True)
    for name in (
        "pairs.jsonl",
        "trl-lib/ultrafeedback_binarized/train.jsonl",
        "trl-lib/ultrafeedback_binarized/test.jsonl",
    ):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [
        "shorter",
        "simpler",
        "calmer",
        "personal",
        "about_the_sea",
    ]  # of functions that rate words: it writes none
    rewards = [
        f"def {name}(prompts, responses):\n    return [float(len(set(one))) for one in responses]" for name in names
    ]
    (root / "recipes.py").write_text("\n\n\n".join(rewards))
    (root / "prompts.jsonl").write_text('{"prompt": "Hello"}\n{"prompt": "A longer one", "beta": 0.5}\n')
    shutil.copy(root / "prompts.jsonl", root / "training_prompts.jsonl")
    return root


@pytest.fixture
def place(stand_ins, tmp_path, monkeypatch):
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    uploads = []

    class Hub:
        def create_repo(self, *args, **kwargs):
            pass

        def upload_folder(self, **kwargs):
            uploads.append(kwargs["repo_id"])

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return uploads


def run_python(code, namespace):
    code = SNIPPET.sub(lambda match: (ROOT / match[1]).read_text("utf-8"), code)
    exec(compile(code, "page", "exec"), namespace)


def run_shell(code):
    for line in code.replace("\\\n", " ").strip().splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["accelerate", "launch"]:  # what several processes do is tested elsewhere
            words = ["rgtg-hf", *words[words.index("rgtg_hf.cli.main") + 1 :]]
        if not words:
            continue
        if words[:2] == ["rgtg-hf", "sample"]:  # the other lines of a page go on with the small files that stand there
            words[2:] = [f"sampled_{name}" for name in words[2:]]
        if "--help" in words:
            with pytest.raises(SystemExit, match=r"^0$"):
                main(words[1:])
        elif words[0] == "rgtg-hf":
            assert main(words[1:]) == 0, line
        elif words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "cat":
            subprocess.run(line, shell=True, check=True)
        elif words[0] == "pip":
            check_extras(line)
        else:
            assert Path(words[0]).name in OTHER_PROGRAMS, f"it is not known how to check {line!r}"


def check_extras(line):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"\[([\w,]+)\]", line):
        assert set(extras.split(",")) <= set(setup["options.extras_require"]), line


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_of_a_page_runs(page, place, monkeypatch):
    module = ModuleType("page")  # where transformers looks for the module of a class
    monkeypatch.setitem(sys.modules, "page", module)
    namespace = vars(module)
    for language, code in blocks_of(page):
        if language == "python":
            run_python(code, namespace)
        elif language == "sh":
            run_shell(code)
        elif language == "json":
            json.loads(code)
        elif language == "yaml":
            yaml.safe_load(code)
        else:
            assert language in NO_CODE, f"it is not known how to run {language!r}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs(example, place):
    runpy.run_path(str(example))
    assert ("owner/my-reward-model" in place) == (example.name == "publish.py")


def test_the_recipes_reward_what_they_are_named_for():
    recipes = runpy.run_path(str(ROOT / "docs" / "examples" / "recipes.py"))
    better_and_worse = {
        "shorter": ("It rains. We wait.", "It rains while we are waiting for the bus that never comes to this place."),
        "simpler": ("We need more time.", "Additional resources are required immediately."),
        "calmer": ("We lost, and went home.", "A horrible, stupid defeat. I hate them."),
        "personal": ("You can take your time.", "One can take some time."),
        "about_the_sea": ("A ship on the ocean.", "A train on the plain."),
    }
    for name, texts in better_and_worse.items():
        better, worse, empty = recipes[name](["Prompt"] * 3, [*texts, ""])
        assert better > worse, name
        assert isinstance(empty, float), name
        assert name in (ROOT / "docs" / "how-to" / "recipes.md").read_text("utf-8")


def test_code_is_found_on_the_pages_that_matter():
    names = {page.relative_to(ROOT).as_posix() for page in WITH_CODE}
    assert {"README.md", "docs/index.md", "docs/tutorials/steer.md", "docs/tutorials/publish.md"} <= names
    assert len([block for page in WITH_CODE for block in blocks_of(page)]) > 25
    assert len(EXAMPLES) >= 3

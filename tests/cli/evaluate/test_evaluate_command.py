import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.cli.main import main
from tests.cli.conftest import byte_tokenizer, save

PROMPTS = ["Hello there", "How was the long day at the sea?", "Tell me", "A story of a cat, please", "Why?"]


@pytest.fixture(scope="module")
def full_reward_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("full"), LlamaForSequenceClassification, byte_tokenizer(), 5, num_labels=1)


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("tuned"), LlamaForCausalLM, byte_tokenizer(), 6, num_hidden_layers=3)


@pytest.fixture
def arguments(policy_folder, reward_folder, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    (tmp_path / "judge.py").write_text("def vowels(prompts, texts):\n    return [t.count('e') / 9 for t in texts]\n")

    def of(output, *extra):
        options = ["--model", policy_folder, "--prompts", str(file), "--gold", "judge:vowels", "--output", str(output)]
        settings = ["--max_new_tokens", "6", "--batch_size", "2", "--betas", "1", "3", "--top_k", "5"]
        return ["evaluate", *options, *settings, "--reward_model", reward_folder, *extra]

    return of


@pytest.fixture
def evaluate(arguments, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return lambda output, *extra: main(arguments(output, *extra))


def texts(folder):
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_is_in_the_report(printed, rows):
    """The table in the terminal has the figures of the report's rows, in six columns of 80 letters at the most."""
    lines = [line.rstrip() for line in printed.splitlines()]
    assert max(map(len, lines)) <= 80
    for row in rows:
        strength = f"{row['strength']:g}" if row["strength"] else ""
        (line,) = [line for line in lines if re.match(rf" *{row['method']} +{strength} ", line)]
        gold, error = map(float, re.findall(r"([\d.]+) ± ([\d.]+)", line)[0])
        assert (gold, error) == pytest.approx((row["gold"], row["gold_se"]), abs=1e-3)
        assert line.endswith(f"{row['tokens_per_s']:.0f}")


def test_all_methods_are_written_judged_and_reported(
    evaluate, tmp_path, policy_folder, full_reward_folder, tuned_folder, capsys
):
    models = ["--full_reward_model", full_reward_folder, "--fine_tuned", tuned_folder, "--ns", "2", "3"]
    models += ["--proxy_tuned", tuned_folder, "--proxy_base", policy_folder, "--cards_targets", "0.5"]
    models += ["--autoregressive_rm", tuned_folder, "--instruction", "Answer cheerfully."]
    assert evaluate(tmp_path / "out", *models) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    methods = {(row["method"], row["strength"]) for row in report["rows"]}
    steered, by_number = ("pargs", "pargs_greedy", "args", "args_greedy", "particles"), ("blockwise", "halving")
    assert methods == {
        *(("policy", 0), ("greedy", 0), ("cards", 0.5)),
        *((name, 1) for name in ("prompted", "offline", "proxy", "genarm")),
        *((name, beta) for name in steered for beta in (1, 3)),
        *((name, n) for name in ("best_of_n", "best_of_n_full", *by_number) for n in (2, 3)),
    }
    assert all(row["prompts"] == len(PROMPTS) for row in report["rows"])
    assert "pargs" in report["at_equal_kl"][0]
    rows = texts(tmp_path / "out")
    assert [row["index"] for row in rows] == list(range(len(methods) * len(PROMPTS)))
    assert [row["prompt"] for row in rows[: len(PROMPTS)]] == PROMPTS
    assert report["gold"]["pargs 1"] == [
        row["response"].count("e") / 9 for row in rows if (row["method"], row["strength"]) == ("pargs", 1)
    ]
    for name in ("reward_vs_kl.png", "reward_vs_speed.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| pargs | 3 |" in table
    assert_is_in_the_report(capsys.readouterr().out, report["rows"])
    written = [file.read_text() for file in (tmp_path / "out").iterdir() if file.suffix != ".png"]
    places = (str(tmp_path), str(Path(full_reward_folder).parent))
    assert not [place for place in places if any(place in text for text in written)]


@pytest.mark.parametrize("kept_bytes", [0.7, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.2, 1.0))])
def test_killed_evaluation_goes_on_and_repeats_nothing_that_was_finished(evaluate, tmp_path, monkeypatch, kept_bytes):
    from rgtg_hf.cli.partial import PartialOutput
    from rgtg_hf.evaluation.methods import Contestants

    methods = ["--methods", "pargs"]
    assert evaluate(tmp_path / "whole", *methods) == 0
    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", lambda self: sys.exit(9))  # killed at the last moment
        with pytest.raises(SystemExit):
            evaluate(tmp_path / "out", *methods)
    partial = tmp_path / "out" / "texts.jsonl.partial"
    content = partial.read_bytes()
    partial.write_bytes(content[: int(len(content) * kept_bytes)])
    finished = partial.read_bytes().count(b"\n") - 1
    written, respond = [], Contestants.respond

    def counting(self, method, strength, inputs, seed):
        written.append(len(inputs["input_ids"]))
        return respond(self, method, strength, inputs, seed)

    monkeypatch.setattr(Contestants, "respond", counting)
    assert evaluate(tmp_path / "out", *methods) == 0
    assert texts(tmp_path / "out") == texts(tmp_path / "whole")
    assert sum(written) <= 3 * len(PROMPTS) - finished + 1  # a batch that was cut in two is drawn again as a whole
    written.clear()
    assert evaluate(tmp_path / "out", *methods) == 0  # only the report is made anew
    assert written == []


def _in_two_processes(arguments, tmp_path, monkeypatch, **settings):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines"]
    command += ["1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "rgtg_hf.cli.main"]
    return subprocess.run([*command, *arguments], check=False, **settings)


@pytest.mark.slow
def test_number_of_processes_does_not_show(arguments, evaluate, tmp_path, monkeypatch):
    assert evaluate(tmp_path / "one", "--methods", "pargs", "best_of_n") == 0
    shared = arguments(tmp_path / "two", "--methods", "pargs", "best_of_n")
    assert _in_two_processes(shared, tmp_path, monkeypatch).returncode == 0
    assert texts(tmp_path / "two") == texts(tmp_path / "one")


@pytest.mark.slow
def test_a_judge_that_cannot_be_loaded_ends_all_processes(arguments, tmp_path, monkeypatch):
    wrong = arguments(tmp_path / "two", "--gold", "nowhere:f")
    ended = _in_two_processes(wrong, tmp_path, monkeypatch, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert ended.stderr.count("there is no module 'nowhere'") == 1
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "pargs", "magic"], "there is no method 'magic'; choose from: policy, greedy, prompted"),
        (["--methods", "args"], "args needs --full_reward_model; give it, or leave the method out"),
        (["--methods", "proxy"], "proxy needs --proxy_tuned and --proxy_base; give it"),
        (["--methods", "cards"], "cards needs --full_reward_model and --cards_targets; give it"),
        (["--methods", "prompted"], "prompted needs --instruction; give it"),
        (["--gold", "judge:consonants"], "the module judge has no function 'consonants'"),
        (["--gold", "nowhere:f"], "there is no module 'nowhere'"),
        (["--gold", "./nothing-here"], "--gold"),
        (["--ns", "0"], "--ns has 0"),
        (["--value_beta", "much"], "--value_beta"),
        (["--second_gold", "nobody"], "--second_gold: there is no judge 'nobody'"),
        (["--top_k", "0"], "--top_k is 0"),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0"),
    ],
)
def test_mistakes_are_told_before_any_work(evaluate, tmp_path, capsys, extra, message):
    assert evaluate(tmp_path / "out", *extra) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_belongs_to_one_configuration(evaluate, tmp_path, capsys):
    assert evaluate(tmp_path / "out", "--methods", "policy") == 0
    capsys.readouterr()
    assert evaluate(tmp_path / "out", "--methods", "policy", "--seed", "7") == 2
    assert "holds another evaluation, which differs in: seed" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert evaluate(tmp_path / "mine") == 2
    assert "--output" in capsys.readouterr().err


def test_a_second_judge_can_be_asked_later(evaluate, tmp_path):
    assert evaluate(tmp_path / "out", "--methods", "policy") == 0
    written = (tmp_path / "out" / "texts.jsonl").read_bytes()
    assert evaluate(tmp_path / "out", "--methods", "policy", "--second_gold", "flesch") == 0
    assert (tmp_path / "out" / "texts.jsonl").read_bytes() == written
    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert row["second_gold"] is not None


def test_a_folder_is_free_after_a_run_that_ended_before_its_first_text(
    evaluate, tmp_path, foreign_reward_folder, capsys
):
    assert evaluate(tmp_path / "out", "--reward_model", foreign_reward_folder, "--methods", "pargs") == 2
    assert "different vocabularies" in capsys.readouterr().err
    assert evaluate(tmp_path / "out", "--methods", "pargs") == 0
    assert evaluate(tmp_path / "out", "--reward_model", foreign_reward_folder, "--methods", "pargs") == 2
    assert "differs in: reward_model" in capsys.readouterr().err


def test_prompts_that_were_trained_on_are_counted(evaluate, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p, "chosen": "yes", "rejected": "no"} for p in (" hello  There", "Other", "Why?")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--methods", "policy", "--training_data", str(pairs)]
    assert evaluate(tmp_path / "out", *options) == 0
    error = " ".join(capsys.readouterr().err.split())
    assert "Warning: 2 of 5 prompts are among the training pairs" in error


def test_accuracy_on_held_out_pairs_is_drawn_by_fraction_read(evaluate, tmp_path, full_reward_folder):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p, "chosen": "yes, of course", "rejected": "no, not at all"} for p in PROMPTS]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--methods", "pargs", "args", "--full_reward_model", full_reward_folder, "--pairs", str(pairs)]
    assert evaluate(tmp_path / "out", *options) == 0
    accuracy = json.loads((tmp_path / "out" / "report.json").read_text())["accuracy_by_fraction_read"]
    assert accuracy["prefix-trained"]["all"]["pairs"] == 5
    assert len(accuracy["full-sequence"]["of like length"]["accuracy"]) == 10
    assert (tmp_path / "out" / "accuracy_vs_fraction.png").exists()


def test_a_reward_model_can_be_the_gold(evaluate, tmp_path, full_reward_folder):
    assert evaluate(tmp_path / "out", "--methods", "policy", "--gold", full_reward_folder) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(set(report["gold"]["policy 0"])) > 1
    assert report["settings"]["gold"] == full_reward_folder.rsplit("/", 1)[-1]


@pytest.mark.parametrize(("saved", "betas"), [(None, [0.5, 1.0, 2.0]), (8.0, [4.0, 8.0, 16.0])])
def test_strengths_are_around_the_one_that_is_saved_beside_the_reward_model(
    arguments, reward_folder, saved, betas, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    model = Path(shutil.copytree(reward_folder, tmp_path / "model"))
    if saved is not None:
        RewardGuidanceConfig(beta=saved).save_pretrained(model)
    given = arguments(tmp_path / "found", "--reward_model", str(model), "--methods", "pargs")
    del given[(place := given.index("--betas")) : place + 3]
    assert main(given) == 0
    found = [row["strength"] for row in texts(tmp_path / "found") if row["method"] == "pargs"]
    assert sorted(set(found)) == betas


def test_a_head_has_strengths_of_its_own(arguments, head_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    head = shutil.copytree(head_folder, tmp_path / "head")
    RewardGuidanceConfig(beta=4.0).save_pretrained(head)
    found = {}
    for name, given in (("of the models", []), ("of --betas", ["--betas", "3"])):
        command = arguments(tmp_path / name, "--head", str(head), "--methods", "head", "pargs")
        del command[(place := command.index("--betas")) : place + 3]
        assert main([*command, *given]) == 0
        found[name] = sorted({(row["method"], row["strength"]) for row in texts(tmp_path / name)} - {("policy", 0.0)})
    assert found["of the models"] == [
        (name, beta) for name, first in (("head", 2), ("pargs", 0.5)) for beta in (first, 2 * first, 4 * first)
    ]
    assert found["of --betas"] == [("head", 3), ("pargs", 3)]


def test_candidates_are_as_many_as_the_model_says(arguments, reward_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    model = Path(shutil.copytree(reward_folder, tmp_path / "model"))
    RewardGuidanceConfig(top_k=1).save_pretrained(model)
    given = arguments(tmp_path / "found", "--reward_model", str(model), "--methods", "greedy", "pargs")
    del given[(place := given.index("--top_k")) : place + 2]
    assert main(given) == 0
    ids = {method: set() for method in ("policy", "greedy", "pargs")}
    for row in texts(tmp_path / "found"):
        ids[row["method"]].add((row["place"], *row["ids"]))
    assert ids["policy"] == ids["greedy"] == ids["pargs"]


def test_a_value_model_is_compared_by_the_soft_value_that_is_saved_or_given(evaluate, tmp_path, capsys):
    bins = {"num_labels": 5, "value_range": [-20.0, 20.0]}
    values = Path(save(tmp_path / "values", LlamaForSequenceClassification, byte_tokenizer(), 7, **bins))
    options = ["--reward_model", str(values), "--methods", "pargs", "best_of_n", "blockwise", "particles", "--ns", "2"]
    assert evaluate(tmp_path / "means", *options) == 0
    assert evaluate(tmp_path / "given", *options, "--value_beta", "-1") == 0
    RewardGuidanceConfig(value_beta=-1.0).save_pretrained(values)
    assert evaluate(tmp_path / "saved", *options) == 0
    assert evaluate(tmp_path / "saved", *options, "--value_beta", "0") == 2
    assert "differs in: value_beta" in capsys.readouterr().err
    means, given, saved = (texts(tmp_path / name) for name in ("means", "given", "saved"))
    assert given == saved
    ids = {(row["method"], row["strength"], row["place"]): row["ids"] for row in means}
    changed = {row["method"] for row in given if row["ids"] != ids[row["method"], row["strength"], row["place"]]}
    assert changed == {"pargs", "best_of_n", "blockwise", "particles"}

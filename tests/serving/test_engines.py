"""An engine writes rollouts in place of the policy. vLLM itself is tested in tests/serving."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import set_seed

from rgtg_hf.evaluation.rollouts import pairs_of_rollouts, rollouts
from rgtg_hf.serving.engines import ServerEngine, VllmEngine
from tests.cli.conftest import byte_tokenizer
from tests.tiny_models import tiny_policy

TOKENIZER = byte_tokenizer()
PROMPTS = ["Why?", "Tell me more about the sea."]


def first_letter(prompts, responses):
    return [
        float(len(prompt)) + (ord(response[0]) if response else 0) / 256
        for prompt, response in zip(prompts, responses, strict=True)
    ]


class Server(ThreadingHTTPServer):
    """A small server with the part of OpenAI's interface that is used, around a policy in memory."""

    def __init__(self, models=("tiny",), with_ids=True, broken=None):
        ids = {f"{name}_token_id": getattr(TOKENIZER, f"{name}_token_id") for name in ("pad", "bos", "eos")}
        self.policy = tiny_policy(vocab_size=len(TOKENIZER), **ids)
        self.models, self.with_ids, self.broken = models, with_ids, broken
        self.asked, self.lock = [], threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def complete(self, body):
        with self.lock:
            set_seed(len(body["prompt"]))
            ids = torch.tensor([body["prompt"]])
            output = self.policy.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=body["top_k"],
                max_new_tokens=body["max_tokens"],
                num_return_sequences=body["n"],
            )
        choices = []
        for place, row in enumerate(output[:, ids.shape[1] :].tolist()):
            ended = TOKENIZER.eos_token_id in row
            row = row[: row.index(TOKENIZER.eos_token_id) + 1] if ended else row
            choices.append(
                {
                    "index": place,
                    "text": TOKENIZER.decode(row, skip_special_tokens=True),
                    "finish_reason": "stop" if ended else "length",
                    **({"token_ids": row} if self.with_ids else {}),
                }
            )
        return {"choices": choices[::-1]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": name} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.server.broken == "refuses":
            self.answer({"error": "top_k is not known here"}, 400)
        elif self.server.broken == "one":
            self.answer({"choices": self.server.complete(body)["choices"][:1]})
        else:
            self.answer(self.server.complete(body))

    def answer(self, content, status=200):
        body = b"<html>" if self.server.broken == "page" else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Starts servers, and stops them afterwards."""
    started = []

    def start(**settings):
        server = Server(**settings)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server, f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_a_server_writes_what_its_policy_writes(serve):
    server, address = serve()
    settings = {"num_responses": 3, "top_k": 5, "max_new_tokens": 6}
    rows = rollouts(ServerEngine(address, TOKENIZER), TOKENIZER, PROMPTS, first_letter, **settings)
    assert [row["prompt"][0]["content"] for row in rows] == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    for body in server.asked:
        assert (body["n"], body["top_k"], body["max_tokens"], body["temperature"]) == (3, 5, 6, 1.0)
        mine = [row for row in rows if row["prompt_ids"] == body["prompt"]]
        again = sorted(server.complete(body)["choices"], key=lambda choice: choice["index"])
        assert [row["completion_ids"] for row in mine] == [choice["token_ids"] for choice in again]
        assert [row["finished"] for row in mine] == [choice["finish_reason"] == "stop" for choice in again]
    assert all(row["log_ratios"] == [0.0] * len(row["completion_ids"]) for row in rows)
    assert pairs_of_rollouts(rows)
    assert rows == rollouts(ServerEngine(address, TOKENIZER), TOKENIZER, PROMPTS, first_letter, **settings)


def test_where_a_server_returns_no_token_ids_its_text_is_read(serve):
    _, address = serve(with_ids=False)
    rows = rollouts(
        ServerEngine(address, TOKENIZER), TOKENIZER, PROMPTS, first_letter, num_responses=4, max_new_tokens=40
    )
    for row in rows:
        text = row["completion"][-1]["content"]
        ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        assert row["completion_ids"] == ids + [TOKENIZER.eos_token_id] * row["finished"]


def test_what_a_server_cannot_do_is_said_in_one_sentence(serve):
    _, two = serve(models=("one", "other"))
    with pytest.raises(ValueError, match=r"serves \['one', 'other'\], but the model None is asked for"):
        ServerEngine(two, TOKENIZER)
    assert ServerEngine(two, TOKENIZER, "other")
    with pytest.raises(ConnectionError, match=r"No server answers at http://127\.0\.0\.1:9/v1"):
        ServerEngine("http://127.0.0.1:9/v1", TOKENIZER)
    for broken, sentence in (
        ("refuses", "answers 400: .*top_k is not known"),
        ("one", "returned 1 responses where 4"),
    ):
        _, address = serve(broken=broken)
        engine = ServerEngine(address, TOKENIZER)
        with pytest.raises(ValueError, match=sentence):
            rollouts(engine, TOKENIZER, PROMPTS, first_letter, num_responses=4, max_new_tokens=3)
    _, page = serve(broken="page")
    with pytest.raises(ValueError, match="does not have OpenAI's interface"):
        ServerEngine(page, TOKENIZER)


def test_an_engine_cannot_be_guided(serve):
    from transformers import TopKLogitsWarper

    _, address = serve()
    with pytest.raises(ValueError, match="give the policy itself in place of an engine"):
        rollouts(ServerEngine(address, TOKENIZER), TOKENIZER, PROMPTS, first_letter, processor=TopKLogitsWarper(3))


def test_without_vllm_its_name_and_the_way_to_it_are_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm rgtg-hf"):
        VllmEngine("policy")


def test_the_command_writes_by_a_server_and_goes_on(serve, tmp_path, capsys, monkeypatch):
    from rgtg_hf.cli.main import main

    server, address = serve()
    server.policy.save_pretrained(tmp_path / "policy")
    TOKENIZER.save_pretrained(tmp_path / "policy")
    prompts = ["Why?", "Tell me more.", "Who?"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rule.py").write_text(
        "def longest(prompts, responses):\n    return [float(len(one)) for one in responses]\n"
    )
    arguments = ["rollouts", "--model", "policy", "--prompts", "prompts.txt", "--reward", "rule:longest"]
    arguments += ["--num_responses", "2", "--batch_size", "4", "--max_new_tokens", "5", "--output", "out.jsonl"]
    assert main([*arguments, "--engine", address]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == [
        one for one in ("Why?", "Tell me more.", "Who?") for _ in "12"
    ]
    assert len(server.asked) == 3
    capsys.readouterr()
    for wrong, sentence in (
        (["--engine", "vlm"], "--engine is vlm; give transformers, vllm, or the address of a server"),
        (["--engine", address, "--guide", "policy"], f"--guide: with --engine {address} nothing can guide"),
        (["--engine", "http://127.0.0.1:9/v1"], "--engine: http://127.0.0.1:9/v1 cannot be used: No server answers"),
    ):
        arguments[-1] = "more.jsonl"
        assert main([*arguments, *wrong]) == 2
        assert sentence in capsys.readouterr().err

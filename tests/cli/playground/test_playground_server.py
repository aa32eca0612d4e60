"""The playground's real server on the loopback address: many at once, too much at once, and nonsense."""

import inspect
import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from rgtg_hf.cli.playground.playground_app import Playground
from tests.cli.playground.serving import LEFT_OPEN, served

pytestmark = [pytest.mark.slow, *LEFT_OPEN]

FIELDS = {"prompt": "Hi!", "policy": 0, "reward_model": 0, "beta": 2.0, "value_beta": 0.0, "top_k": 5, "tokens": 4}
FIELDS |= {"sample": False, "seed": 0, "search": "tokens", "num_rows": 2, "block_size": 4}


def request(**changed):
    return list((FIELDS | changed).values())


GOOD = request()


@pytest.fixture(scope="module")
def server(policy_folder, reward_folder):
    options = ["--model", policy_folder, "--reward_model", reward_folder, "--max_new_tokens", "6"]
    with served(options) as (address, number):

        def ask(data, session):
            """Status of the request, and everything that the server said."""
            with httpx.Client(base_url=address, timeout=300) as client:
                event = {"data": data, "fn_index": number, "session_hash": session}
                # What JSON cannot say, such as NaN, is sent all the same.
                joined = client.post(
                    "gradio_api/queue/join", content=json.dumps(event), headers={"content-type": "application/json"}
                )
                if joined.status_code != 200:
                    return joined.status_code, joined.text
                said = ""
                with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
                    for line in stream.iter_lines():
                        said += line
                        if '"process_completed"' in line or '"unexpected_error"' in line:
                            break
                return 200, said

        yield address, ask


def test_fifty_at_once_are_answered_or_refused_in_words(server):
    _, ask = server
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda i: ask(GOOD, f"session{i}"), range(50)))
    answered = [said for status, said in results if status == 200]
    refused = [said for status, said in results if status != 200]
    print(f"\nanswered {len(answered)}, refused {len(refused)}")
    assert {status for status, _ in results} <= {200, 503}
    assert len(answered) >= 20  # the queue's length
    assert all("Done." in said for said in answered)
    assert all("queue" in said.lower() and "Traceback" not in said for said in refused)
    assert "Done." in ask(GOOD, "later")[1]  # and it goes on


NONSENSE = [
    [],
    GOOD[:3],
    request(policy=99),
    request(policy=-1, reward_model=-1),
    request(policy="../../etc/passwd"),
    request(reward_model=None),
    request(prompt=None),
    request(prompt={"a": ["b"]}),
    request(prompt="x" * 5000),
    request(prompt="\x00\u202e\ud83d"),
    request(beta=1e308),
    request(beta=math.nan),
    request(beta="strong"),
    request(value_beta=math.inf),
    request(top_k=-1),
    request(top_k=1e12),
    request(tokens=-4),
    request(tokens=1e9),
    request(sample="maybe"),
    request(seed=-1),
    request(seed=1e30),
    request(search="magic"),
    request(search="best", num_rows=1e9),
    request(search="best", block_size=-3),
]


def test_requests_have_the_fields_of_the_page():
    assert ["self", *FIELDS, "request"] == list(inspect.signature(Playground._generate).parameters)


@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_nonsense_is_answered_without_traces_or_places(server, number, policy_folder, caplog):
    _, ask = server
    caplog.set_level(logging.CRITICAL)
    _, said = ask(NONSENSE[number], f"nonsense{number}")
    assert "status" in said or "error" in said
    for secret in ("Traceback", 'File "', str(Path.home()) + "/", str(Path(policy_folder).parent), "site-packages"):
        assert secret not in said


def test_requests_that_are_too_large_or_without_a_size_are_refused(server):
    address, ask = server
    assert ask(request(prompt="x" * 100_000), "large")[0] == 413
    upload = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.txt", b"x" * 100_000)})
    assert upload.status_code == 413
    assert httpx.post(f"{address}gradio_api/queue/join", content=iter([b"x"] * 9)).status_code == 411


def test_files_of_the_machine_are_not_served(server, policy_folder):
    address, _ = server
    for path in ("/etc/passwd", f"{policy_folder}/config.json", __file__, "../../etc/passwd"):
        for route in ("gradio_api/file=", "file=", "static/", "assets/"):
            response = httpx.get(f"{address}{route}{path}")
            assert response.status_code in (403, 404), route + path
            assert "root:" not in response.text

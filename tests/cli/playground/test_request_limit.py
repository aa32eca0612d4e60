import asyncio

import pytest

from rgtg_hf.cli.playground.request_limit import RequestLimit


async def ask(method, headers):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    await RequestLimit(app, most=10)(scope, None, send)
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("POST", {"content-length": "10"}, 200),
        ("POST", {"content-length": "11"}, 413),
        ("POST", {"content-length": "9" * 30}, 413),
        ("POST", {"content-length": "-1"}, 411),
        ("POST", {"content-length": "\xb2"}, 411),
        ("PUT", {}, 411),
    ],
)
def test_bodies_must_state_a_small_size(method, headers, status):
    assert asyncio.run(ask(method, headers)) == status

"""Engines that write the policy's responses in place of `generate()`: vLLM, or a server with OpenAI's interface.

They draw by their own random state. A seed of a request's own would end a server of vLLM 0.32 on CPU ("CPU Generator
does not use offset") as soon as it reads prompts in pieces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import httpx

__all__ = ["Engine", "ServerEngine", "VllmEngine", "Written"]

# Sampling as in `rollouts`, whatever the generation_config.json of the policy says.
_PLAIN = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
_SECONDS = 3600.0  # that a server may take for one prompt, which may wait for others


class Written(NamedTuple):
    """A response.

    Attributes:
        ids: Its tokens, with the end token if it ended by itself.
        finished: Whether it ended by itself.
    """

    ids: list[int]
    finished: bool


class Engine(ABC):
    """Writes responses of a policy."""

    @abstractmethod
    def write(
        self, prompts: Sequence[list[int]], *, num_responses: int, top_k: int, max_new_tokens: int
    ) -> list[Written]:
        """Samples responses at temperature 1.

        Args:
            prompts: The token ids of each prompt.
            num_responses: Responses to each prompt.
            top_k: How many tokens are sampled from at each step, the policy's most likely.
            max_new_tokens: Largest number of tokens of a response.

        Returns:
            The responses, those of a prompt together.
        """


class VllmEngine(Engine):
    """vLLM in this process.

    Args:
        model: The policy: a folder, or a name on the hub.
        settings: What `vllm.LLM` takes: `dtype`, `max_model_len`, `seed` and so on.

    Raises:
        ImportError: If vLLM is not installed.

    Example:
        ```python
        from rgtg_hf.serving.engines import VllmEngine
        from rgtg_hf.evaluation.rollouts import rollouts

        def collect(name, tokenizer, prompts, reward):
            return rollouts(VllmEngine(name, max_model_len=2048), tokenizer, prompts, reward, num_responses=16)
        ```
    """

    def __init__(self, model: str, **settings: Any):
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError(
                "vLLM is not installed. Install it beside this package, in an environment of its own: "
                "pip install vllm rgtg-hf"
            ) from error
        self._llm = LLM(model, **settings)

    def write(
        self, prompts: Sequence[list[int]], *, num_responses: int, top_k: int, max_new_tokens: int
    ) -> list[Written]:
        """See [`Engine.write`]."""
        from vllm import SamplingParams, TokensPrompt

        shared = {"n": num_responses, "top_k": top_k, "max_tokens": max_new_tokens, "detokenize": False, **_PLAIN}
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts], SamplingParams(**shared), use_tqdm=False
        )
        return [
            Written(list(one.token_ids), one.finish_reason == "stop") for output in outputs for one in output.outputs
        ]


class ServerEngine(Engine):
    """A server with OpenAI's interface that knows `top_k` and takes prompts as token ids, such as vLLM's.

    Args:
        address: Where its interface begins, such as `http://localhost:8000/v1`.
        tokenizer: The policy's tokenizer. It reads the text of a response where a server does not return token ids
            (vLLM does), which can give other tokens than those that were written.
        model: The policy's name at the server. By default the only one that it serves.
        api_key: What the server asks for, if anything.

    Raises:
        ConnectionError: If no such server answers.
        ValueError: If it serves no model of that name, or several and none is named.
    """

    def __init__(self, address: str, tokenizer: Any, model: str | None = None, api_key: str | None = None):
        self._address, self._tokenizer = address.rstrip("/"), tokenizer
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        served = [one["id"] for one in self._ask("GET", "models")["data"]]
        if model is None and len(served) == 1:
            model = served[0]
        if model not in served:
            raise ValueError(f"The server at {address} serves {served}, but the model {model} is asked for.")
        self._model = model

    def write(
        self, prompts: Sequence[list[int]], *, num_responses: int, top_k: int, max_new_tokens: int
    ) -> list[Written]:
        """See [`Engine.write`]. All prompts are sent at once; the server decides how many it works on."""
        shared = {"model": self._model, "n": num_responses, "top_k": top_k, "max_tokens": max_new_tokens, **_PLAIN}
        ask = partial(self._respond, shared | {"return_token_ids": True})
        with ThreadPoolExecutor(max(1, len(prompts))) as pool:
            found = list(pool.map(ask, prompts))
        return [one for of_prompt in found for one in of_prompt]

    def _respond(self, shared: dict[str, Any], prompt: list[int]) -> list[Written]:
        choices = self._ask("POST", "completions", json=shared | {"prompt": prompt})["choices"]
        if len(choices) != shared["n"]:
            raise ValueError(
                f"The server at {self._address} returned {len(choices)} responses where {shared['n']} were asked for."
            )
        return [self._written(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]

    def _written(self, choice: dict[str, Any]) -> Written:
        finished, ids = choice["finish_reason"] == "stop", choice.get("token_ids")
        if ids is None:
            ids = self._tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
            ids = [*ids, self._tokenizer.eos_token_id] if finished else ids
        return Written(list(ids), finished)

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            answer = httpx.request(
                method, f"{self._address}/{path}", headers=self._headers, timeout=_SECONDS, **content
            )
        except httpx.TransportError as error:
            raise ConnectionError(f"No server answers at {self._address}: {error}") from None
        if answer.is_error:
            raise ValueError(f"The server at {self._address} answers {answer.status_code}: {answer.text[:300]}")
        try:
            return answer.json()
        except ValueError:
            raise ValueError(f"What answers at {self._address} does not have OpenAI's interface.") from None

"""Reward guidance inside SGLang, as a custom logit processor.

    RGTG_SERVER='{"reward_model": "owner/reward-model"}' sglang serve --model-path owner/policy \\
        --enable-custom-logit-processor --disable-overlap-schedule --max-running-requests 16 --context-length 512

SGLang makes a processor for every batch, and calls it with the logits of the rows whose requests name it. Among the
parameters of a row is its request, which has the tokens. So what was read is kept for the process, by request. A
request that cannot be guided is ended with a sentence: SGLang has no place to refuse it before, and an error here
would end the server for everybody.
"""

from __future__ import annotations

import json
import os
from functools import cache
from http import HTTPStatus
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import FINISH_ABORT
from sglang.srt.runtime_context import get_server_args
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
from torch import Tensor

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.serving.batch import GuidedBatch
from rgtg_hf.serving.served_reward_model import load_row_scorer, server_default
from rgtg_hf.serving.settings import ServerSettings, requested_guidance, resolved_request

__all__ = ["SglangGuidance"]

_ENVIRONMENT = "RGTG_SERVER"
_ERRORS = (ImportError, OSError, TypeError, ValueError, RuntimeError)


class SglangGuidance(CustomLogitProcessor):
    """Steers the requests that name it with a prefix reward model.

        pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])      v in top-k of pi_LM

    A request has `SglangGuidance.to_str()` as its `custom_logit_processor`, and `{"rgtg": {"beta": 1.5}}` as the
    `custom_params` of its sampling parameters, with the settings that
    [`requested_guidance`][rgtg_hf.serving.settings.requested_guidance] knows. Penalties and grammars come before, and
    temperature, `top_k` and `top_p` after.
    """

    def __call__(self, logits: Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> Tensor:
        """Guides one step.

        Args:
            logits: The policy's logits of the rows, shape `[rows, vocabulary]`.
            custom_param_list: The parameters of each row.

        Returns:
            The guided logits, float32, shape `[rows, vocabulary]`.
        """
        return _guided_requests().guide(logits.float(), custom_param_list or [])


class _GuidedRequests:
    """The guided requests of this process. The reward model is loaded for the first of them."""

    def __init__(self) -> None:
        self._batch: GuidedBatch | None = None
        self._default = RewardGuidanceConfig()
        self._requests: dict[str, Any] = {}  # weak references, by the request's name
        self._failure: Exception | None = None  # of loading, which is not tried again for every request

    def guide(self, logits: Tensor, parameters: list[dict[str, Any]]) -> Tensor:
        self._forget_ended()
        rows: list[int] = []
        for row, one in enumerate(parameters):
            request = (one or {}).get("__req__")
            if request is None:
                continue
            try:
                if self._take_in(request, one, logits):
                    rows.append(row)
            except _ERRORS as error:
                request.to_finish = FINISH_ABORT(str(error), HTTPStatus.BAD_REQUEST, "BadRequestError")
        if not rows:
            return logits
        assert self._batch is not None
        requests = [parameters[row]["__req__"] for row in rows]
        prefixes = [[*request.origin_input_ids, *request.output_ids] for request in requests]
        index = torch.tensor(rows, device=logits.device)
        keys = [request.rid for request in requests]
        return logits.index_copy(0, index, self._batch.guide(keys, prefixes, logits[index]))

    def _take_in(self, request: Any, parameters: dict[str, Any], logits: Tensor) -> bool:
        """Whether a request is to be guided."""
        if request.rid in self._requests:
            return True
        guidance = requested_guidance({name: value for name, value in parameters.items() if name != "__req__"})
        if guidance is None:
            return False
        if self._batch is None:
            self._batch = self._load(logits)
        self._batch.join(request.rid, resolved_request(guidance, self._default))
        self._requests[request.rid] = request
        return True

    def _load(self, logits: Tensor) -> GuidedBatch:
        if self._failure is not None:
            raise self._failure
        arguments = get_server_args()
        try:
            _check_server(arguments)
            settings = _settings()
            self._default = server_default(settings)
            limits = (arguments.max_running_requests, arguments.context_length)
            return GuidedBatch(load_row_scorer(settings, logits.device, logits.shape[1], *limits))
        except _ERRORS as error:
            self._failure = error
            raise

    def _forget_ended(self) -> None:
        for name, request in list(self._requests.items()):
            try:
                ended = request.finished()
            except ReferenceError:  # SGLang has let go of it
                ended = True
            if ended:
                del self._requests[name]
                assert self._batch is not None
                self._batch.leave(name)


@cache
def _guided_requests() -> _GuidedRequests:
    return _GuidedRequests()


def _settings() -> ServerSettings:
    given = os.environ.get(_ENVIRONMENT)
    try:
        found = None if given is None else json.loads(given)
    except ValueError as error:
        raise ValueError(f"{_ENVIRONMENT} is not valid JSON ({error}).") from None
    return ServerSettings.of(found, "reward_model", _ENVIRONMENT, f"""{_ENVIRONMENT}='{{"reward_model": "NAME"}}'""")


def _check_server(arguments: Any) -> None:
    """Refuses what guidance cannot work beside, and asks for the numbers from which its memory is computed."""
    if not arguments.disable_overlap_schedule:
        raise ValueError(
            "The server is a step ahead of the tokens that guidance reads: start it with --disable-overlap-schedule."
        )
    if arguments.speculative_algorithm:
        raise ValueError("Requests cannot be guided beside speculative decoding: start the server without it.")
    for name in ("max_running_requests", "context_length"):
        if not getattr(arguments, name):
            raise ValueError(
                f"The memory that guidance needs cannot be computed: start the server with --{name.replace('_', '-')}."
            )

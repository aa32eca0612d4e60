"""The trainer of the training tests, for parity with what evaluation reads."""

from tests.training.conftest import make_trainer, tokenizer

__all__ = ["make_trainer", "tokenizer"]

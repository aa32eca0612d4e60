from transformers.utils import logging

from rgtg_hf.cli.quiet import quiet_transformers


def test_warnings_and_progress_bars_are_off():
    quiet_transformers()
    assert logging.get_verbosity() == logging.ERROR
    assert not logging.is_progress_bar_enabled()

"""A playground that is served on the loopback address while a module is tested."""

import gc
from contextlib import contextmanager

import pytest

from rgtg_hf.cli.playground.playground_command import make_app

# Gradio's server leaves an event loop and its sockets open when it is closed.
LEFT_OPEN = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def served(options):
    """The address of the page, and the number of the function that answers."""
    app = make_app([*options, "--device", "cpu"])
    _, address, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, inbrowser=False)
    yield address, next(n for n, function in app.blocks.fns.items() if function.name == "_generate")
    app.blocks.close()
    del app
    gc.collect()  # now, while what it leaves open is not an error

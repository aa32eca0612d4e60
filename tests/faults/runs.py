"""Commands in real processes that begin within a moment: forked from one that has imported everything."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SETTINGS = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def starter(cache):
    """Returns a function that starts `rgtg-hf` with some arguments, its output appended to a file.

    Args:
        cache: A folder for the caches of data sets.
    """
    context = multiprocessing.get_context("forkserver")
    # What is forked must have no threads: importing starts none, and nothing has been computed yet.
    context.set_forkserver_preload(["tests.faults.preload"])

    def start(arguments, log):
        before = dict(os.environ)
        os.environ.update(_SETTINGS)
        try:
            process = context.Process(target=_run, args=([*map(str, arguments)], str(log), str(cache)))
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        return process

    return start


def _run(arguments, log, cache):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import datasets

    from rgtg_hf.cli.main import main

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    sys.exit(main(arguments))


def wait_for(condition, process, seconds=300):
    """Waits until `condition` holds or the process has ended; returns whether it runs still."""
    end = time.monotonic() + seconds
    while process.is_alive():
        if condition():
            return True
        assert time.monotonic() < end, "nothing has happened for minutes"
        time.sleep(0.002)
    return False


def finish(process, seconds=300):
    """Waits for the end of a process; returns its exit code."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {seconds} seconds")
    return process.exitcode

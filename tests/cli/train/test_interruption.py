import os
import signal
from types import SimpleNamespace

import pytest

from rgtg_hf.cli.train.interruption import StopGently


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(which, capsys):
    before = signal.getsignal(which)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    with StopGently() as stop:
        stop.on_step_end(None, None, control)
        assert not control.should_training_stop
        os.kill(os.getpid(), which)
        assert signal.getsignal(which) == before  # a second one has its usual effect
        stop.on_step_end(None, None, control)
    assert stop.asked
    assert control.should_save
    assert control.should_training_stop
    assert "interrupt again" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        stop.on_prediction_step(None, None, control)


def test_handlers_are_put_back_when_nothing_happens():
    before = signal.getsignal(signal.SIGTERM)
    with StopGently():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before

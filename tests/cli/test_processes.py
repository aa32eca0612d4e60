from rgtg_hf.cli.processes import Processes, join_processes


def test_a_process_that_nothing_launched_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = join_processes("cpu")
    assert (processes.index, processes.count, processes.device) == (0, 1, "cpu")
    processes.wait()
    assert Processes() == Processes(0, 1)

from rgtg_hf.cli.processes import Processes, join_processes


def test_a_process_that_nothing_launched_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = join_processes("cpu")
    assert (processes.index, processes.count, processes.device) == (0, 1, "cpu")
    processes.wait()
    assert Processes() == Processes(0, 1)


def test_a_device_that_was_chosen_comes_first(monkeypatch):
    for has_gpu, default in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        assert Processes().own_device == default
        assert Processes(device="cuda:1").own_device == "cuda:1"

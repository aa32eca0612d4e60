import pytest

from rgtg_hf.training.shared_config import SharedConfig


def test_a_script_that_says_nothing_of_precision_runs_on_any_machine(tmp_path):
    assert SharedConfig(str(tmp_path), use_cpu=True).bf16 is False


def test_the_old_names_of_checkpointing_are_obeyed_without_a_warning(tmp_path):
    args = SharedConfig(str(tmp_path), bf16=False, use_cpu=True, gradient_checkpointing=False)
    assert args.activation_checkpointing is False


@pytest.mark.parametrize("num_layers", [0, 1.5])
def test_a_number_of_layers_that_cannot_be_one_is_refused(tmp_path, num_layers):
    with pytest.raises((TypeError, ValueError), match="num_layers"):
        SharedConfig(str(tmp_path), bf16=False, use_cpu=True, num_layers=num_layers)

import subprocess
import sys

import pytest
from transformers.utils import is_torch_bf16_gpu_available

from rgtg_hf import PrefixRewardConfig


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"after_end": "pad"}, "`after_end` is 'pad', but must be one of 'hold', 'drop'"),
        ({"prefixes": "some"}, "`prefixes` is 'some'"),
        ({"position_weights": "late"}, "`position_weights` is 'late'"),
        ({"prefix_stride": 0}, "`prefix_stride` is 0, but must be at least 1"),
        ({"num_layers": 0}, "`num_layers` is 0"),
    ],
)
def test_values_are_checked_where_they_are_set(setting, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        PrefixRewardConfig(str(tmp_path), bf16=False, **setting)


def test_the_package_imports_without_the_training_libraries():
    """And says how to get them when training is asked for."""
    code = (
        "import sys\n"
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *args: None if name == 'trl' else find(name, *args)\n"
        "import rgtg_hf\n"
        "assert not {'trl', 'datasets', 'torch', 'transformers'} & set(sys.modules), 'heavy import'\n"
        "try:\n"
        "    rgtg_hf.PrefixRewardTrainer\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'rgtg-hf[train]'" in result.stdout


def test_bf16_is_off_by_itself_where_the_hardware_has_none(tmp_path):
    assert PrefixRewardConfig(str(tmp_path)).bf16 == is_torch_bf16_gpu_available()

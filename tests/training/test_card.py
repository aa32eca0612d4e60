import re
import types

import pytest

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.training.card import data_name
from tests.training.helpers import make_policy

KINDS = {
    "classifier": lambda policy: None,
    "next token": NextTokenRewardModel.from_backbone,
    "steering head": NextTokenRewardModel.from_policy,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_code_steers_a_policy(make_trainer, rows, tmp_path, monkeypatch, capsys, kind):
    make_policy().save_pretrained(tmp_path / "policy")
    trainer = make_trainer(rows, model=KINDS[kind](make_policy()), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    trainer.processing_class.save_pretrained(tmp_path / "policy")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "run" / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("your/language-model", "policy").replace("max_new_tokens=64", "max_new_tokens=4"), {})
    assert capsys.readouterr().out.strip()


def test_the_hub_name_of_a_data_set_is_found():
    info = types.SimpleNamespace(download_checksums={"hf://datasets/someone/pairs@0123abc/data/train.parquet": {}})
    assert data_name(types.SimpleNamespace(info=info)) == "someone/pairs"
    assert data_name(None) is None

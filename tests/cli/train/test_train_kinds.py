import pytest

from rgtg_hf.cli.train.train_kinds import REWARDS, VALUES

pytest.importorskip("trl")


@pytest.mark.parametrize(
    ("kind", "trainer"), [(REWARDS, "PrefixRewardTrainer"), (VALUES, "PrefixValueTrainer")], ids=["rewards", "values"]
)
def test_a_kind_has_its_trainer_and_settings(kind, trainer):
    settings, found, columns = kind.classes()
    assert found.__name__ == trainer
    assert settings.__name__ == trainer.replace("Trainer", "Config")
    assert len(columns) == 5

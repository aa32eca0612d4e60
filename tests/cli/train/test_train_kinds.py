import pytest

from rgtg_hf.cli.train.train_kinds import HEADS, REWARDS, VALUES

pytest.importorskip("trl")


@pytest.mark.parametrize(
    ("kind", "trainer"),
    [(REWARDS, "PrefixRewardTrainer"), (VALUES, "PrefixValueTrainer"), (HEADS, "AdvantageTrainer")],
    ids=["rewards", "values", "heads"],
)
def test_a_kind_has_its_trainer_and_settings(kind, trainer):
    settings, found, columns = kind.classes()
    assert found.__name__ == trainer
    assert settings.__name__ == trainer.replace("Trainer", "Config")
    assert 3 <= len(columns) <= 5

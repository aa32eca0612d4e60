import pytest

from tests.training.helpers import text_rows


def test_resuming_from_another_run_is_refused(make_trainer, rows, tmp_path):
    make_trainer(rows, max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"is from another run: after_end was 'hold' and is 'drop'\. Resume with"):
        make_trainer(rows, max_steps=4, after_end="drop").train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="is from another run: rows was 8 and is 9"):
        make_trainer(text_rows(9), max_steps=4).train(resume_from_checkpoint=True)
    (tmp_path / "run" / "checkpoint-2" / "prefix_training.json").unlink()
    with pytest.raises(ValueError, match="not a checkpoint of PrefixRewardTrainer"):
        make_trainer(rows, max_steps=4).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="no checkpoint directory"):
        make_trainer(rows, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "nowhere"))

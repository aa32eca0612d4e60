"""Padding on the left is told from the mask, or from the ids where that is sure."""

import pytest
import torch

from rgtg_hf.decoding.padding import check_mask, check_padding, infer_attention_mask, kept_ids, pad_left
from tests.tiny_models import BOS, PAD, left_padded

IDS, MASK = left_padded([[5, PAD, 6], [7], [8, 9]])


def test_leading_pad_tokens_are_padding_and_later_ones_are_not():
    assert torch.equal(infer_attention_mask(IDS, None, PAD, BOS), MASK)
    generated = torch.cat([IDS, torch.full((3, 2), PAD)], dim=1)
    assert infer_attention_mask(generated, None, PAD, BOS)[:, 3:].all()


def test_without_a_pad_token_everything_is_text():
    assert infer_attention_mask(IDS).all()


def test_a_prompts_mask_wins_and_holds_for_its_beams_and_their_new_tokens():
    beams = torch.cat([IDS.repeat_interleave(2, dim=0), torch.full((6, 1), PAD)], dim=1)
    found = infer_attention_mask(beams, MASK.bool(), PAD, BOS)
    expected = torch.cat([MASK.repeat_interleave(2, dim=0), torch.ones(6, 1, dtype=torch.long)], dim=1)
    assert torch.equal(found, expected)
    assert found.dtype == torch.int64


@pytest.mark.parametrize("rows", [2, 4])
def test_a_mask_of_another_batch_is_refused(rows):
    with pytest.raises(ValueError, match=rf"shape \(3, 3\), but this call of generate\(\) has {rows} rows"):
        infer_attention_mask(torch.ones(rows, 5, dtype=torch.long), MASK)


def test_padding_that_cannot_be_told_is_refused():
    one_bos_each = torch.tensor([[PAD, 5, 6], [PAD, 7, 8]])
    check_padding(one_bos_each, PAD, bos_token_id=PAD)
    assert infer_attention_mask(one_bos_each, None, PAD, bos_token_id=PAD).all()
    check_padding(IDS, PAD, BOS)
    check_padding(IDS)
    with pytest.raises(ValueError, match="both the pad and the bos token"):
        check_padding(IDS, PAD, bos_token_id=PAD)
    with pytest.raises(ValueError, match="nothing but the pad token"):
        check_padding(torch.tensor([[PAD, PAD], [5, 6]]), PAD, BOS)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([[1]], TypeError, "is a list, but a tensor"),
        (torch.ones(3), ValueError, r"shape \(3,\), but one row per prompt"),
        (torch.ones(0, 3), ValueError, r"shape \(0, 3\)"),
        (torch.tensor([[0, 2]]), ValueError, "other values than 1 for tokens"),
        (torch.tensor([[0, 1], [0, 0]]), ValueError, "a row of zeros"),
    ],
)
def test_what_cannot_be_a_mask_is_refused(mask, error, message):
    with pytest.raises(error, match=message):
        check_mask(mask)


def test_rows_come_back_from_a_left_padded_batch():
    rows = [[5], [6, 7, 8], [9, 9]]
    ids, mask = pad_left(rows, 9)
    assert ids.tolist() == [[9, 9, 5], [6, 7, 8], [9, 9, 9]]
    assert kept_ids(ids, mask) == rows

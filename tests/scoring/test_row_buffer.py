"""A buffer holds what was written last in each column, whatever rows and columns were read before."""

import pytest
import torch

from rgtg_hf.scoring.row_buffer import RowBuffer, capacity_for

HEADS, SIZE = 2, 3


class Model:
    """Writes random keys and values of two layers to a buffer, and to plain tensors beside it."""

    def __init__(self, rows, columns, fixed=False):
        self.buffer, self.expected = RowBuffer(fixed), torch.zeros(2, rows, columns, HEADS, SIZE)
        self.generator = torch.Generator().manual_seed(0)

    def write(self, columns, width, rows=None):
        columns = torch.tensor(columns)
        index = None if rows is None else torch.tensor(rows)
        self.buffer.place_next(self.expected.shape[1], columns, width, index)
        named = range(len(columns)) if rows is None else rows
        for layer in range(2):
            new = torch.randn(len(columns), HEADS, columns.shape[1], SIZE, generator=self.generator)
            keys, values = self.buffer.update(new, 2 * new, layer)
            for own, row in enumerate(named):
                self.expected[layer, row, columns[own]] = new[own].transpose(0, 1)
            written = self.expected[layer][list(named), :width].transpose(1, 2)
            assert torch.equal(keys, written)
            assert torch.equal(values, 2 * written)


def test_columns_are_written_in_place_and_over():
    model = Model(rows=2, columns=300)
    model.write([[0, 1, 2], [0, 1, 4]], width=5)
    model.write([[3, 4], [2, 3]], width=6)
    model.write([[3], [2]], width=6)
    model.write([[100], [200]], width=201)  # grows
    model.write([[5], [7]], width=8)


def test_some_rows_are_read_and_others_stay():
    model = Model(rows=3, columns=9)
    model.write([[0, 1]], width=2, rows=[0])
    model.write([[0, 1], [0, 1]], width=2, rows=[2, 1])
    model.write([[2], [2]], width=3, rows=[1, 0])
    model.write([[3], [3], [3]], width=4)


@pytest.mark.parametrize("rows", [[1, 0], [1, 1, 0], [1]])
def test_rows_are_kept_in_any_order(rows):
    model = Model(rows=2, columns=9)
    model.write([[0, 1, 2], [0, 1, 2]], width=3)
    model.buffer.keep_rows(torch.tensor(rows))
    model.expected = model.expected[:, rows]
    model.write([[2]] * len(rows), width=3)
    assert model.buffer.layers[0].keys.shape[0] == len(rows)


def test_a_row_is_written_over_another():
    model = Model(rows=2, columns=9)
    model.write([[0, 1], [0, 1]], width=2)
    model.buffer.copy_row(1, 0)
    model.expected[:, 0] = model.expected[:, 1]
    model.write([[2], [2]], width=3)


def test_memory_grows_seldom():
    model = Model(rows=1, columns=2000)
    sizes = set()
    for column in range(0, 2000, 10):
        model.write([[column]], width=column + 1)
        sizes.add(model.buffer.layers[0].keys.shape[1])
    assert len(sizes) < 20
    assert max(sizes) <= 1.2 * 2000


def test_keys_and_values_stay_where_they_are_as_long_as_nothing_is_allocated():
    model = Model(rows=2, columns=300, fixed=True)

    def places():
        return [part.data_ptr() for layer in model.buffer.layers for part in layer.parts()]

    model.write([[0, 1], [0, 1]], width=model.buffer.width_for(4))
    first, held = model.buffer.allocations, places()
    model.write([[2], [1]], width=model.buffer.width_for(100))
    model.buffer.keep_rows(torch.tensor([1, 1]))
    model.expected = model.expected[:, [1, 1]]
    assert (model.buffer.allocations, places()) == (first, held)
    for change in (
        lambda: model.write([[2], [3]], width=model.buffer.width_for(200)),
        lambda: model.buffer.keep_rows(torch.tensor([0])),
    ):
        before = model.buffer.allocations
        change()
        assert model.buffer.allocations > before


@pytest.mark.parametrize(("needed", "capacity"), [(1, 128), (128, 128), (129, 256), (5000, 8192)])
def test_fixed_widths_are_few(needed, capacity):
    assert capacity_for(needed, fixed=True) == RowBuffer(fixed=True).width_for(needed) == capacity

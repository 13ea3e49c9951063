"""What the exactness of scores rests on: a row of a matrix product is the same wherever it lies."""

from __future__ import annotations

import pytest
import torch

import online_model  # noqa: F401 - tells MKL before its first product


@pytest.mark.parametrize("inputs", [5, 64, 103, 279])
@pytest.mark.parametrize("outputs", [1, 3, 8, 40])
def test_a_row_of_a_product_is_the_same_wherever_it_lies(inputs: int, outputs: int) -> None:
    made = torch.Generator().manual_seed(inputs * outputs)
    rows, weight = torch.randn(64, inputs, generator=made), torch.randn(outputs, inputs, generator=made)
    product = torch.nn.functional.linear(rows, weight)
    for _ in range(6):
        order = torch.randperm(64, generator=made)
        assert torch.equal(torch.nn.functional.linear(rows[order], weight), product[order])

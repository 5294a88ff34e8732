"""Data given in Python: what is accepted, how it is cut, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from graphprune.data import Batch, CalibrationBatches, as_batches, check_against, synthetic
from graphprune.errors import DataError

X = torch.arange(10 * 3 * 2 * 2, dtype=torch.float32).reshape(10, 3, 2, 2)
Y = torch.arange(10) % 4


def _sizes(batches: CalibrationBatches) -> list[int]:
    return [batch.n_images for batch in batches]


@pytest.mark.parametrize("data", [(X, Y), [X, Y], Batch(inputs=(X,), labels=Y)])
def test_one_big_labelled_batch_is_cut(data: object) -> None:
    batches = as_batches(data, batch_size=4)
    assert _sizes(batches) == [4, 4, 2]
    assert batches.n_images == 10
    assert batches.has_labels
    assert batches.input_shapes == ((3, 2, 2),)
    assert torch.equal(torch.cat([batch.inputs[0] for batch in batches]), X)
    assert torch.cat([b.labels for b in batches if b.labels is not None]).tolist() == Y.tolist()


@pytest.mark.parametrize("data", [X, (X,), [X[:5], X[5:]], [(X,)], iter([X])])
def test_unlabelled_forms(data: object) -> None:
    batches = as_batches(data)
    assert not batches.has_labels
    assert batches.n_images == 10


def test_a_loader_keeps_its_batches() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    batches = as_batches(loader, batch_size=7)
    assert _sizes(batches) == [3, 3, 3, 1]
    assert batches.source == "given DataLoader"
    assert as_batches(batches) is batches


def test_several_inputs() -> None:
    batches = as_batches([(X, X[:, 0], Y), (X, X[:, 0], Y)])
    assert batches.input_shapes == ((3, 2, 2), (2, 2))
    assert batches.has_labels
    assert not as_batches((X, X, X)).has_labels


def test_small_label_dtypes_become_int64() -> None:
    batches = as_batches((X, Y.to(torch.uint8)))
    labels = batches.batches[0].labels
    assert labels is not None
    assert labels.dtype == torch.int64


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_cut_into_batches_does_not_count(first: int, second: int) -> None:
    one = as_batches((X, Y), batch_size=first)
    other = one.rebatched(second)
    assert max(_sizes(other)) == min(second, 10)
    assert other.sha256 == as_batches((X, Y), batch_size=second).sha256 == one.sha256
    assert other.rebatched(first).n_images == 10


@given(st.integers(1, 15))
def test_head_keeps_the_first(n: int) -> None:
    head = as_batches((X, Y), batch_size=4).head(n)
    assert head.n_images == min(n, 10)
    assert head.sha256 == as_batches((X[:n], Y[:n])).sha256


def test_the_hash_counts_content() -> None:
    hashes = {
        as_batches(data).sha256
        for data in ((X, Y), (X,), (X + 1, Y), (X, Y + 1), (X.double(), Y), (X.flatten(1), Y))
    }
    assert len(hashes) == 6


def test_conversion_keeps_labels_and_hash() -> None:
    batches = as_batches((X, Y))
    converted = batches.to(dtype=torch.float64, device="cpu")
    assert converted.batches[0].inputs[0].dtype == torch.float64
    assert torch.equal(converted.batches[0].labels, Y)  # type: ignore[arg-type]
    assert converted.sha256 == batches.sha256


def test_integer_inputs_stay_integer() -> None:
    tokens = torch.randint(0, 5, (4, 7))
    assert as_batches((tokens,)).to(dtype=torch.float16).batches[0].inputs[0].dtype == torch.int64


def test_synthetic_inputs_are_seeded() -> None:
    one = synthetic([(3, 4, 4), (5,)], n_images=70, dtype=torch.float64, seed=3)
    assert _sizes(one) == [64, 6]
    assert one.input_shapes == ((3, 4, 4), (5,))
    assert one.source == "synthetic"
    assert not one.has_labels
    assert (
        one.sha256 == synthetic([(3, 4, 4), (5,)], n_images=70, dtype=torch.float64, seed=3).sha256
    )
    assert one.sha256 != synthetic([(3, 4, 4), (5,)], n_images=70, dtype=torch.float64).sha256
    values = synthetic([(50,)], n_images=400).batches[0].inputs[0]
    assert abs(float(values.mean())) < 5 / 64**0.5 / 50**0.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar.npz", "data is a str; allowed are tensors"),
        (3, "data is a int"),
        ({"x": X}, "data is a dict"),
        ([], "there are no images"),
        ((), "there are no images"),
        ([()], "batch 0 is empty"),
        ([3], "batch 0 is a int"),
        ([(X, "a")], "batch 0 holds Tensor, str"),
        ((X[:0], Y[:0]), r"data, x is empty \(shape \(0, 3, 2, 2\)\)"),
        (torch.ones(3), r"data, x has the shape \(3,\); the first dim must be the batch"),
        ((X, Y[:4]), "data, y has 4 labels for 10 images"),
        ((X, Y.float()), r"data, y is torch\.float32; labels are whole class numbers"),
        ((X, torch.eye(10).long()), r"data, y has the shape \(10, 10\)"),
        ((X, Y - 2), "the label -2 at image 0"),
        ((X.byte(), Y), r"data, x is torch\.uint8"),
        (([X, X]), None),
        ([(X, Y), (X,)], "batch 1 has no labels"),
        ([X, X[:, :2]], r"batch 1 holds 2x2x2 of torch\.float32 and batch 0 holds 3x2x2"),
        ((X, X[:5], Y), "data has inputs of 10 and 5 images"),
    ],
)
def test_what_is_refused(data: object, message: str | None) -> None:
    if message is None:
        assert as_batches(data).n_images == 20
        return
    with pytest.raises(DataError, match=message):
        as_batches(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_numbers_say_which_image(value: float) -> None:
    bad = X.clone()
    bad[6, 0, 0, 0] = bad[4, 1, 1, 1] = value
    with pytest.raises(DataError, match="NaN or infinity in 2 of 10 images, the first is image 4"):
        as_batches((bad, Y))


def test_a_batch_size_below_one() -> None:
    with pytest.raises(DataError, match="the batch size is 0"):
        as_batches((X, Y), batch_size=0)


def test_data_and_model_are_checked_against_each_other() -> None:
    batches = as_batches((X, Y))
    check_against(batches, 4, ((3, 2, 2),))
    check_against(batches, None, ((3, 2, 2),))
    check_against(as_batches((X,)), 1, ((3, 2, 2),))
    with pytest.raises(DataError, match="gives 3x2x2, the model takes 3x8x8"):
        check_against(batches, 4, ((3, 8, 8),))
    with pytest.raises(DataError, match="gives 3x2x2, the model takes 3x2x2 and 7"):
        check_against(batches, 4, ((3, 2, 2), (7,)))
    with pytest.raises(
        DataError, match=r"image 3 .* has the label 3; the model's 3 outputs .* 0 to 2"
    ):
        check_against(batches, 3, ((3, 2, 2),))

"""BatchNorm re-estimation: exact moments of what passes through the pruned network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphprune.data import Batch, CalibrationBatches, as_batches
from graphprune.errors import DataError
from graphprune.graph import trace
from graphprune.repairs import RepairResult
from graphprune.repairs import repair as repair_by
from graphprune.surgery import PrunedModel, cut
from tests.export.subjects import subject
from tests.helpers import random_kept, randomize

IMAGES = 2 * torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(7)) + 1


def repair(pruned: PrunedModel, data: CalibrationBatches) -> RepairResult:
    return repair_by(pruned, data, "batchnorm")


def whole(model: nn.Module, inputs: tuple[Tensor, ...]) -> PrunedModel:
    graph = trace(model, inputs)
    return cut(graph, graph.all_kept())


def one_training_pass(pruned: PrunedModel) -> PrunedModel:
    """Let torch itself estimate the statistics: one training pass with a momentum of 1."""
    for node in pruned.graph.nodes:
        if "batch_norm" in str(node.target):
            node.update_arg(6, 1.0)
        if "dropout" in str(node.target):
            node.update_arg(1, 0.0)
    pruned.train()(IMAGES)
    return pruned.eval()


def test_one_batch_gives_what_a_training_pass_of_torch_gives() -> None:
    expected = one_training_pass(subject("Trained").pruned)

    result = repair(subject("Trained").pruned, as_batches((IMAGES,), batch_size=30))

    assert set(result.changed) == {
        f"{norm}.{buffer}" for norm in ("bn1", "bn2") for buffer in ("running_mean", "running_var")
    }
    for name in result.changed:
        torch.testing.assert_close(result.model.get_buffer(name), expected.get_buffer(name))
    assert "30 images" in result.notes[0]


@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_moments_are_pooled_exactly_over_uneven_batches(size: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    pruned = whole(model.eval(), (IMAGES[:2],))

    repaired = repair(pruned, as_batches((IMAGES,), batch_size=size)).model

    received = model[0](IMAGES).detach().double()
    mean, variance = received.mean((0, 2, 3)), received.var((0, 2, 3))
    torch.testing.assert_close(
        repaired.get_buffer("1.running_mean").double(), mean, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        repaired.get_buffer("1.running_var").double(), variance, rtol=1e-5, atol=1e-6
    )


def test_a_norm_used_twice_sees_both_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) + self.norm(x)

    model = Twice().eval()

    repaired = repair(whole(model, (IMAGES[:2],)), as_batches((IMAGES,), batch_size=11)).model

    received = torch.cat([model.conv(IMAGES).detach(), IMAGES]).double()
    mean = repaired.get_buffer("norm.running_mean").double()
    variance = repaired.get_buffer("norm.running_var").double()
    torch.testing.assert_close(mean, received.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance, received.var((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_tied_buffers_get_one_estimate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)).eval()
    model[2].running_mean, model[2].running_var = model[1].running_mean, model[1].running_var

    repaired = repair(whole(model, (IMAGES[:2],)), as_batches((IMAGES,))).model

    assert repaired.get_buffer("1.running_mean") is repaired.get_buffer("2.running_mean")
    assert torch.isfinite(repaired.get_buffer("1.running_var")).all()


def test_a_constant_channel_keeps_its_variance() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        model[0].weight[2] = 0

    result = repair(whole(model, (IMAGES[:2],)), as_batches((IMAGES,)))

    variance = result.model.get_buffer("1.running_var")
    assert variance[2] == 1
    assert (variance[[0, 1, 3]] != 1).all()
    assert "1 channels are constant" in result.notes[1]


def test_norms_without_batch_dims_work_on_single_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)).eval()

    repaired = repair(whole(model, (IMAGES[:2],)), as_batches((IMAGES,), batch_size=1)).model

    received = model[1](IMAGES.flatten(1)).detach()
    torch.testing.assert_close(repaired.get_buffer("2.running_var"), received.var(0))


def test_norms_on_batch_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()

    result = repair(whole(model, (IMAGES[:2],)), as_batches((IMAGES,)))

    assert result.changed == ()


def test_a_network_without_batch_norm_is_returned_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)).eval()

    result = repair(whole(model, (IMAGES[:2],)), as_batches((IMAGES,)))

    assert result.changed == ()
    assert "no BatchNorm" in result.notes[0]


def test_it_repairs_what_removing_channels_breaks() -> None:
    """With its statistics right, a pruned network's hidden layers are normalised again."""
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.Identity()),
    )
    randomize(model).eval()
    graph = trace(model, (IMAGES[:2],))
    pruned = cut(graph, random_kept(graph, 0.5, 0))

    repaired = repair(pruned, as_batches((IMAGES,), batch_size=10)).model

    with torch.no_grad():
        weight, bias = repaired.get_parameter("4.weight"), repaired.get_parameter("4.bias")

        def distance(network: PrunedModel) -> float:
            normalised = (network(IMAGES) - bias[:, None, None]) / weight[:, None, None]
            mean = normalised.mean((0, 2, 3)).abs().max()
            return max(mean.item(), (normalised.var((0, 2, 3)) - 1).abs().max().item())

        assert distance(repaired) < 0.1
        assert distance(pruned) > 0.5


def test_several_inputs_keep_their_structure() -> None:
    pruned = subject("TwoInputs").pruned
    image, given = pruned.example_inputs(6)

    result = repair(pruned, as_batches(Batch(inputs=(image, given["extra"]))))

    assert any("running_mean" in name for name in result.changed)
    with pytest.raises(DataError, match="takes 2"):
        repair(pruned, as_batches((image,)))

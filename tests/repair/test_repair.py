"""Repair: what all methods promise."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from graphprune.data import as_batches
from graphprune.errors import DataError, OptionError, SurgeryError
from graphprune.graph import trace
from graphprune.repairs import RepairJob, available, registry, repair
from graphprune.repairs.registry import Method, Outcome, register
from graphprune.surgery import PrunedModel, cut
from tests.export.subjects import subject
from tests.helpers import run

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("method", available())
def test_a_repair_keeps_the_network_and_returns_another(method: str) -> None:
    pruned = subject("Trained").pruned.train()
    before = copy.deepcopy(pruned.state_dict())

    result = repair(pruned, as_batches((IMAGES,), batch_size=8), method)

    assert pruned.training
    assert all(torch.equal(before[key], value) for key, value in pruned.state_dict().items())
    assert isinstance(result.model, PrunedModel)
    assert result.model is not pruned
    assert not result.model.training
    assert result.method in ((method,) if method != "auto" else ("least-squares", "batchnorm"))
    after = result.model.state_dict()
    assert after.keys() == before.keys()
    assert {key: value.shape for key, value in after.items()} == {
        key: value.shape for key, value in before.items()
    }
    differing = {key for key in after if not torch.equal(after[key], before[key])}
    assert differing == set(result.changed)
    assert result.model.example_inputs(2)[0].shape == (2, 3, 8, 8)


def test_none_needs_no_data_and_changes_nothing() -> None:
    result = repair(subject("Trained").pruned, None, "none")

    assert result.changed == ()
    assert result.notes == ()


def test_methods_that_look_at_images_need_some() -> None:
    with pytest.raises(DataError, match="batchnorm"):
        repair(subject("Trained").pruned, None, "batchnorm")


def test_an_unknown_method_is_refused_with_the_list() -> None:
    assert {"none", "batchnorm"} <= set(available())
    with pytest.raises(OptionError, match="batchnorm, bias, distill, least-squares, none"):
        repair(subject("Trained").pruned, as_batches((IMAGES,)), "magic")


def test_a_name_can_be_taken_once() -> None:
    with pytest.raises(ValueError, match="batchnorm"):
        register("batchnorm")(lambda job: Outcome())


def test_what_overflows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.repairs import registry

    def overflow(job: RepairJob) -> Outcome:
        job.model.get_parameter("fc.weight").fill_(float("inf"))
        return Outcome()

    monkeypatch.setattr(registry, "_METHODS", {})
    register("overflow")(overflow)

    with pytest.raises(SurgeryError, match=r"fc\.weight"):
        repair(subject("Trained").pruned, as_batches((IMAGES,)), "overflow")


def test_images_are_taken_in_the_networks_dtype() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double(), (IMAGES.double(),))

    result = repair(cut(graph, graph.all_kept()), as_batches((IMAGES,)), "batchnorm")

    assert run(result.model, (IMAGES.double(),))[0].dtype == torch.float64


@pytest.mark.parametrize("method", ["least-squares", "bias", "auto"])
def test_what_is_kept_is_fitted_to_all_images_but_judged_without(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = subject("Trained").pruned
    jobs, starts, ends = [], [], []

    def recorded(name: str, run: Method) -> Method:
        def wrapper(job: RepairJob) -> Outcome:
            starts.append(copy.deepcopy(job.model.state_dict()))
            outcome = run(job)
            jobs.append((name, job, outcome))
            ends.append(job.judge and job.judge.judge(job.model, job.source.kept))
            return outcome

        return wrapper

    for name, entry in registry._METHODS.items():
        monkeypatch.setitem(registry._METHODS, name, replace(entry, run=recorded(name, entry.run)))
    result = repair(pruned, as_batches((IMAGES,), batch_size=8), method)

    (first, second) = jobs
    assert (first[0], second[0]) == (method, result.method)
    assert first[1].held_out.n_images == 5
    assert second[1].held_out is None
    assert second[1].data.n_images == 40
    assert second[1].decided == first[2].layers == result.layers
    assert all(torch.equal(value, pruned.state_dict()[key]) for key, value in starts[1].items())
    assert result.after == ends[0]
    assert result.notes[0] == second[2].notes[0]
    assert "40 images" in result.notes[0]


def test_what_is_not_kept_is_left_as_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = subject("Trained").pruned

    def spoil(job: RepairJob) -> Outcome:
        for parameter in job.model.parameters():
            parameter.zero_()
        return Outcome()

    entry = registry._METHODS["least-squares"]
    monkeypatch.setitem(registry._METHODS, "least-squares", replace(entry, run=spoil))
    result = repair(pruned, as_batches((IMAGES,), batch_size=8), "least-squares")

    assert result.method == "none"
    assert result.after == result.before
    after = result.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in pruned.state_dict().items())

"""Records of runs that never happened, for the report's tests."""

from __future__ import annotations

from graphprune.artifacts import (
    AccuracyRecord,
    CheckRecord,
    ChoiceRecord,
    CostRecord,
    CostsRecord,
    DataRecord,
    FaithfulnessRecord,
    HeldOutRecord,
    LatencyRecord,
    LayerGainRecord,
    ManifestFile,
    ModelRecord,
    PlanFile,
    PlannedGroupRecord,
    RankedGroup,
    RankingFile,
    RepairRecord,
    StepRecord,
    ValidationRecord,
)

MODEL_HASH = "a" * 64


def model_record(spec: str = "torchvision:resnet18") -> ModelRecord:
    return ModelRecord(
        spec=spec,
        weights=None,
        input_shapes=((3, 32, 32),),
        sha256=MODEL_HASH,
        folder="somewhere",
        unpin_outputs=(),
    )


def data_record(spec: str = "calibration.npz") -> DataRecord:
    return DataRecord(
        spec=spec,
        mean=(0.5,),
        std=(0.25,),
        resize=(32, 48),
        limit=None,
        sha256="b" * 64,
        folder="somewhere",
    )


def manifest(
    *,
    spec: str = "torchvision:resnet18",
    data: DataRecord | None = None,
    argv: tuple[str, ...] = ("bin/graphprune", "prune", "--ratio", "0.3", "--data", "my data.npz"),
    checks: tuple[CheckRecord, ...] | None = None,
    accuracy: AccuracyRecord | None = None,
    fidelity: FaithfulnessRecord | None = None,
    latency: LatencyRecord | None = None,
    steps: tuple[StepRecord, ...] = (),
    candidates: ChoiceRecord | None = None,
    notes: tuple[str, ...] = ("the network only takes batches of 2",),
) -> ManifestFile:
    if checks is None:
        checks = (check("masked = pruned"), check("pruned = onnxruntime"))
    return ManifestFile(
        argv=argv,
        versions={"python": "3.11.9", "torch": "2.14.0"},
        seed=7,
        model=model_record(spec),
        data=data,
        hashes={"plan.json": "c" * 64, "pruned.onnx": "d" * 64},
        timings={"trace": 1.25, "rank": 12.5},
        repair=RepairRecord(
            method="least-squares",
            changed=("fc.weight",),
            notes=(),
            held_out=HeldOutRecord(n_images=16, before=0.5, after=0.1),
            layers=(
                LayerGainRecord(layer="fc.weight", before=0.234, after=0.0123, ridge=0.001),
                LayerGainRecord(layer="conv.weight", before=0.1, after=0.1, ridge=None),
            ),
        ),
        accuracy=accuracy,
        fidelity=fidelity,
        latency=latency,
        steps=steps,
        candidates=candidates,
        validation=ValidationRecord(ok=all(c.ok for c in checks), checks=checks),
        notes=notes,
    )


def check(name: str, *, ok: bool = True, detail: str = "batches 1, 2, 5") -> CheckRecord:
    return CheckRecord(
        name=name, ok=ok, detail=detail, max_abs=2e-6, max_rel=3.2e-7, tolerance=1e-4
    )


def plan(names: tuple[str, ...] = ("stem.weight", "wide.weight")) -> PlanFile:
    """Groups of 4 and 9 units, of which one and three go."""
    first, second = names
    return PlanFile(
        removed={first: {"0": (2,)}, second: {"0": (0, 1, 8)}},
        removed_outputs={},
        groups=(
            PlannedGroupRecord(name=first, units=4, removed_units=(2,)),
            PlannedGroupRecord(name=second, units=9, removed_units=(0, 1, 8)),
        ),
        cost=CostsRecord(
            before=CostRecord(units=13, params=11_689_512, macs=1_814_073_344),
            after=CostRecord(units=9, params=7_456_000, macs=907_036_672),
        ),
        of="macs",
        scope="global",
        asked=0.475,
        reached=0.5,
        criterion="shapley",
        seed=7,
        model_hash=MODEL_HASH,
    )


def ranking(
    names: tuple[str, ...] = ("stem.weight", "wide.weight"), *, protected: tuple[str, ...] = ()
) -> RankingFile:
    first, second = names
    return RankingFile(
        criterion="shapley",
        game="network",
        estimator="gradients",
        value="kl",
        aggregate="magnitude",
        semivalue="shapley",
        evaluations=17,
        n_images=256,
        seed=7,
        model_hash=MODEL_HASH,
        model=model_record(),
        data=None,
        protected=protected,
        notes=(),
        groups=(
            RankedGroup(
                name=first,
                units=4,
                scores=(0.4, 0.3, 0.1, 0.2),
                stderr=(0.01, 0.01, 0.01, 0.01),
                effort=None,
            ),
            RankedGroup(
                name=second,
                units=9,
                scores=(0.0, 1e-6, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1e-5),
                stderr=(0.0,) * 9,
                effort=None,
            ),
        ),
    )

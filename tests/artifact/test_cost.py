"""What a set cost, by hand."""

import pytest

from distill_hub.artifact.cost import cost_parts, is_whole, own_stages, total_cost
from distill_hub.artifact.describe import read_cost
from distill_hub.artifact.manifest import CostRecord, ExpertsFacts, ModelRecord, StageRecord
from distill_hub.config import InputError
from distill_hub.running.cost import Meter, added, write_cost

KNOWN = ("seconds", "core_seconds", "gpu_seconds")
FITTED = {
    "teacher": CostRecord(seconds=11.0, core_seconds=20.0, gpu_seconds=0.0, hardware="CPU"),
    "generator": CostRecord(seconds=161.0, core_seconds=300.0, gpu_seconds=0.0, hardware="CPU"),
}


def fitted(name, **more):
    return ModelRecord(id=f"fitted on fish: {name}", architecture="net", sha256="1" * 64, cost=FITTED[name], **more)


def stages(*names):
    return [StageRecord(name=name, items=1, seconds=6.0, core_seconds=10.0, gpu_seconds=2.0) for name in names]


def numbers(cost):
    return tuple(cost[name] for name in KNOWN)


def test_a_set_costs_the_same_whether_its_models_were_fitted_in_its_run_or_before(build_manifest):
    models = {name: fitted(name) for name in FITTED}
    made = ("fit generator", "fit teacher convnet-2-bn", "fit teacher", "keep statistics convnet-2-bn")
    made += ("difficulty", "keep difficulty", "pool")
    fresh = build_manifest(stages=stages(*made), **models)("0" * 64)
    cached = build_manifest(stages=stages("difficulty", "pool"), **models)("0" * 64)
    assert [stage.name for stage in own_stages(fresh)] == ["difficulty", "pool"]
    assert cost_parts(fresh) == cost_parts(cached)
    # 2 x 6 + 11 + 161; 2 x 10 + 20 + 300; 2 x 2 on a GPU
    assert numbers(total_cost(cost_parts(cached))) == (184.0, 340.0, 4.0) and is_whole(cost_parts(cached))


def test_a_tuned_generator_costs_its_tuning_and_the_one_it_came_from(build_manifest, make_tuning):
    tuning = make_tuning(base=fitted("generator"), cost=CostRecord(seconds=50.0, core_seconds=90.0, hardware="CPU"))
    tuned = ModelRecord(id="tuned", architecture="net", sha256="2" * 64, tuning=tuning)
    for made in (("encode", "fine-tune", "save generator", "pool"), ("pool",)):  # by its own recipe, and by another
        parts = cost_parts(build_manifest(stages=stages(*made), generator=tuned)("0" * 64))
        assert list(parts) == ["its own stages", "fine-tuning of the generator", "the generator it was tuned from"]
        assert numbers(total_cost(parts)) == (6.0 + 50.0 + 161.0, 10.0 + 90.0 + 300.0, None)  # no GPU on record of one


def test_experts_cost_the_same_whether_they_were_trained_in_its_run_or_before(build_manifest):
    cost = CostRecord(seconds=40.0, core_seconds=70.0, gpu_seconds=0.0, hardware="CPU")
    experts = ExpertsFacts(id="fitted on fish", architecture="net", sha256="4" * 64, cost=cost, experts=3, epochs=5)
    for made in (("fit experts", "keep experts", "match"), ("match",)):
        parts = cost_parts(build_manifest(stages=stages(*made), experts=experts, generator=None)("0" * 64))
        assert parts["experts"] == cost and parts["its own stages"].seconds == 6.0


def test_what_is_not_on_record_is_unknown(build_manifest):
    elsewhere = ModelRecord(id="timm/resnet18", architecture="net", sha256="3" * 64)
    old = [StageRecord(name="pool", items=1, seconds=6.0)]
    parts = cost_parts(build_manifest(stages=old, teacher=elsewhere)("0" * 64))
    assert parts["teacher"] is None and not is_whole(parts)
    assert numbers(total_cost(parts)) == (6.0, None, None)
    nothing = cost_parts(build_manifest(stages=[], environment=None)("0" * 64))
    assert numbers(total_cost(nothing)) == (None, None, None)


def test_the_cost_of_a_fit_lies_in_its_folder(tmp_path):
    assert read_cost(tmp_path) is None and read_cost(None) is None
    write_cost(tmp_path, {"seconds": 1.5, "core_seconds": 2.5, "gpu_seconds": 0.0}, "cpu")
    found = read_cost(tmp_path)
    assert (found.seconds, found.core_seconds, found.gpu_seconds) == (1.5, 2.5, 0.0) and "CPU" in found.hardware
    (tmp_path / "cost.json").write_text('{"seconds": -1, "hardware": "CPU"}')
    with pytest.raises(InputError, match=r"cost\.json: seconds"):
        read_cost(tmp_path)


def test_a_meter_counts_the_cores_that_work_and_not_the_time_that_passes():
    meter = Meter("cpu")
    while meter.read()["core_seconds"] < 0.05:
        sum(range(1000))
    found = meter.read()
    assert found["seconds"] > 0 and found["gpu_seconds"] == 0.0
    still = Meter("cpu")
    still.clock -= 100  # as if it had waited
    assert still.read()["seconds"] >= 100 and still.read()["core_seconds"] < 5
    with_gpu = Meter("cuda")
    with_gpu.clock -= 3
    assert with_gpu.read()["gpu_seconds"] >= 3


def test_one_part_that_does_not_say_leaves_the_sum_unknown():
    one, other = {"seconds": 1.0, "core_seconds": 2.0, "gpu_seconds": 0.0}, {"seconds": 3.0, "core_seconds": 4.0}
    assert added(one, other) == {"seconds": 4.0, "core_seconds": 6.0, "gpu_seconds": None}

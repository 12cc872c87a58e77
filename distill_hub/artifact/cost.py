"""What a set cost: its own stages, and the models that were fitted for it, whether in its own run or before."""

from collections.abc import Mapping

from distill_hub.artifact.manifest import CostRecord, Manifest, ModelRecord, StageRecord
from distill_hub.running.cost import NOTHING, Cost, added

# Stages that make a model, or begin so: one of several teachers is named. What they took stands with the model, the same for
# a run that found it made.
FITTING = ("fit generator", "fit teacher", "fit experts", "encode", "fine-tune")
# Stages that write files for other runs to find, of several networks named. They stand nowhere, since a run that finds the
# files has no such stage.
KEEPING = ("save generator", "keep difficulty", "keep statistics", "keep experts")
OWN_STAGES = "its own stages"


def own_stages(manifest: Manifest) -> list[StageRecord]:
    """Return the stages that made the set itself, not a model."""
    return [stage for stage in manifest.stages if not stage.name.startswith((*FITTING, *KEEPING))]


def cost_parts(manifest: Manifest) -> dict[str, CostRecord | None]:
    """Return what each part of a set cost, by what it is; None: not on record, as of models from elsewhere."""
    stages = own_stages(manifest)
    hardware = manifest.environment.hardware if manifest.environment else "unknown"
    parts = {OWN_STAGES: CostRecord(**added(*map(vars, stages)), hardware=hardware) if stages else None}
    for name, model in _models(manifest).items():
        if model.tuning:
            parts[f"fine-tuning of the {name}"] = model.tuning.cost
            parts[f"the {name} it was tuned from"] = model.tuning.base.cost
        else:
            parts[name] = model.cost
    return parts


def total_cost(parts: Mapping[str, CostRecord | None]) -> Cost:
    """Return the sums over the parts that are on record; None where there is none, or one of them does not say."""
    known = [part for part in parts.values() if part]
    return added(*map(vars, known)) if known else dict.fromkeys(NOTHING)


def is_whole(parts: Mapping[str, CostRecord | None]) -> bool:
    """Whether the cost of every part is on record."""
    return all(parts.values())


def _models(manifest: Manifest) -> dict[str, ModelRecord]:
    """Return the models that a set was made with, each once."""
    given = {"generator": manifest.generator, "teacher": manifest.teacher, "selector": manifest.selector}
    given["experts"] = manifest.experts
    given["teacher of the stored views"] = manifest.views.teacher if manifest.views else None
    found: dict[str, ModelRecord] = {}
    for name, model in given.items():
        if model and all(name == "teacher" or model.sha256 != known.sha256 for known in found.values()):
            found[name] = model
    return found

"""The command line that makes a set again: what its manifest says, and where sources and networks lie now."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

from distill_hub.artifact.find import MANIFEST
from distill_hub.artifact.manifest import Manifest, is_mirrored
from distill_hub.artifact.names import RECIPES
from distill_hub.config import InputError, nearest, options, parse, resolved
from distill_hub.data.known import FITTED, KNOWN
from distill_hub.kinds import is_path
from distill_hub.launching.launcher import with_launch_options
from distill_hub.launching.recipes import find_set_recipe, recipes_folder, word
from distill_hub.making.packages import other_method
from distill_hub.networks.names import is_fitted, split_teachers
from distill_hub.options.commands import RealOptions, ReproduceConfig
from distill_hub.options.shared import EvaluationOptions, ViewsOptions

# Students and stored views change nothing in the rows. A recipe cannot go without a student: the smallest scoring is left.
NO_PART = {f.name for group in (EvaluationOptions, ViewsOptions) for f in dataclasses.fields(group)}
_LEAST_SCORING = ("--score=no", "--view_epochs=0")


def make_words(manifest: Manifest, config: ReproduceConfig, folder: Path, *, published: bool) -> list[str]:
    """Return the words of `distill-hub make` that make a set's rows again, with the least scoring.

    Source and generator are taken at the commits on record, whatever branch was asked for then.

    Args:
        manifest: Of the set.
        config: What lies elsewhere now.
        folder: Where to rebuild it.
        published: Whether the set is on the Hub; then a folder of its author's is not looked for on this machine.

    Raises:
        InputError: When the set was made elsewhere, or the manifest lacks something that a rebuild needs; its recipe is
            gone, its package not installed, or it does not know a setting; or its source is not on this machine.
    """
    recorded = manifest.method.config
    if manifest.origin == "external":
        raise InputError("distilled set", manifest.name, "it was made elsewhere: nothing on record says how")
    for field, value in {"seed": manifest.seed, "environment": manifest.environment, "method.config": recorded}.items():
        if value in (None, {}):
            raise InputError(f"{MANIFEST}: {field}", value, "without it the set cannot be rebuilt")
    method = manifest.method.name
    if package := manifest.method.package:
        package.check("methods", method, other_method(method))
    recipe = find_set_recipe(RECIPES.get(method, method), f"{MANIFEST}: method.name")
    defaults = resolved(recipe.config_class())
    for name in recorded:
        # What may not be set is no option here, either: a stranger's manifest names no folder to write or overwrite.
        if name not in defaults:
            near = nearest(name, list(defaults))
            valid = f"the recipe {recipe.name} has no such option{near}: the set was made by another version"
            raise InputError(f"{MANIFEST}: method.config", name, valid)
    settings = {**_done_then(manifest), **recorded, **_lies_now(manifest, config, published=published)}
    words = [
        word(name, value)
        for name, value in settings.items()
        if name in defaults and name not in NO_PART and value != defaults[name]
    ]
    words += [*_LEAST_SCORING, f"--output_dir={folder}", *["--overwrite"] * config.overwrite]
    words = [*_start(manifest), *words]
    parse(with_launch_options(recipe.config_class), words)  # refuses here what the recipe would refuse
    words = ["distill-hub", "make", recipe.name, *words]
    if not shlex.join(words).isprintable():  # a stranger may have written it, and it is shown on a terminal
        raise InputError(MANIFEST, shlex.join(words), "a recipe's settings hold no control characters")
    return words


def _lies_now(manifest: Manifest, config: ReproduceConfig, *, published: bool) -> dict[str, Any]:
    """Return the settings that say where real images and networks lie: as pinned by the record, or as named now."""
    recorded, known, generator, teacher = manifest.method.config, manifest.source, manifest.generator, manifest.teacher
    members = (teacher.members or [teacher]) if teacher else []
    if members and all(member.revision for member in members):  # on the Hub, wherever they lay when the set was made
        recorded = {**recorded, "teacher": ",".join(member.id for member in members)}
    settings = {name: value for name, value in options(config, RealOptions).items() if value}
    folders = [("source", known.name)] if known.is_folder else []
    fitted = generator is not None and generator.id.startswith(FITTED)
    for field in ("generator", "vae", "prompts", "teacher", "selector", "experts", "dynamics"):
        name = str(recorded.get(field) or "auto")
        if field == "generator" and fitted and is_fitted(name):
            continue  # a kind that was fitted, not a folder of that name
        for one in map(str.strip, name.split(",")) if field in ("teacher", "dynamics") else [name]:
            if is_path(one) or (one != "auto" and "/" not in one):  # as ids on the Hub and names of timm have it
                folders.append((field, one))
    for field, name in folders:
        what = "file" if field == "prompts" else "folder"
        if not getattr(config, field) and (published or name in KNOWN or not os.path.exists(name)):
            valid = f"it is a {what} of whoever made the set; pass --{field} with the {what} that holds the same here"
            raise InputError(field, name, valid)
        if field == "generator" and is_fitted(name):
            settings[field] = os.path.join(".", name)  # or the recipe would fit one of that kind
    if config.source:
        settings = {"source_revision": None, "source_config": None, **settings}  # recorded ones are of another place
    elif known.revision:
        settings.setdefault("source_revision", known.revision)
    if config.source or known.name not in KNOWN:  # its place does not tell what it is
        mirrored = "yes" if is_mirrored(manifest) else "no"
        settings = {"mirrored": mirrored, "normalization": known.normalization, **settings}
    if config.generator:
        if generator is None:
            raise InputError("generator", config.generator, "the set was made without one")
        settings |= {"generator": config.generator, "generator_revision": None}
    elif generator:
        # A recipe that tunes its generator was given the one it came from.
        named = [generator, *([generator.tuning.base] if generator.tuning else [])]
        pinned = [m.revision for m in named if m.revision and recorded.get("generator", "auto") in ("auto", m.id)]
        settings |= {"generator_revision": pinned[0]} if pinned else {}
    if config.vae:
        if generator is None or generator.vae is None:
            raise InputError("vae", config.vae, "the set was made with the VAE of its generator, or without one")
        settings |= {"vae": config.vae, "vae_revision": None}
    elif generator and generator.vae and generator.vae.revision:
        settings["vae_revision"] = generator.vae.revision
    if config.prompts:
        settings["prompts"] = config.prompts
    # Whatever 'auto' makes of the place where it lies now; a record without them is older than the choice.
    if generator and recorded.get("timestep_features", "auto"):
        settings["timestep_features"] = generator.timestep_features or "diffusers"
    if config.teacher:
        if members and config.teacher != "auto" and len(split_teachers(config.teacher)) != len(members):
            valid = f"the set was labelled by {len(members)}; name as many, by commas and in the order of its record"
            raise InputError("teacher", config.teacher, valid)
        settings |= {"teacher": config.teacher, "teacher_revision": None}
    elif any(revisions := [member.revision or "" for member in members]):
        settings |= {"teacher": recorded.get("teacher", "auto"), "teacher_revision": ",".join(revisions)}
    selects = recorded.get("selector", "auto") != "auto"
    if config.selector:
        if not selects:
            raise InputError("selector", config.selector, "the set was made without one, or its teacher selected")
        settings |= {"selector": config.selector, "selector_revision": None}
    elif selects and manifest.selector:
        settings["selector_revision"] = manifest.selector.revision
    if config.experts:
        if manifest.experts is None:
            raise InputError("experts", config.experts, "the set was made without any")
        settings |= {"experts": config.experts, "experts_revision": None}
    elif manifest.experts and manifest.experts.revision:
        settings["experts_revision"] = manifest.experts.revision
    notes = manifest.method.notes
    if config.dynamics:
        if "dynamics_sha256" not in notes:
            raise InputError("dynamics", config.dynamics, "the set was made without any")
        settings |= {"dynamics": config.dynamics, "dynamics_revision": None}
    elif notes.get("dynamics_revision"):
        settings["dynamics_revision"] = notes["dynamics_revision"]
    return settings


def _done_then(manifest: Manifest) -> dict[str, Any]:
    """Return what recipes did before there were options for it, where another default has come; what is on record wins."""
    done: dict[str, Any] = {"judged_over": "set"}
    if "smallest_crop" in manifest.method.config:  # optimised pixels were seen in one way at any size
        done |= {"flips": "yes", "largest_roll": round(manifest.image_size / 7)}
    return done


def _start(manifest: Manifest) -> list[str]:
    """Return the options that start it with the recorded device, processes and precision, as far as this machine has them.

    The launch file that `accelerate config` wrote has no part in it: --cpu needs none, and for GPUs another is named.
    """
    recorded = manifest.environment
    if "cuda" in recorded.peak_memory_bytes:
        import torch  # no other set needs it here, and it takes seconds

        here = torch.cuda.device_count()
        start = ["--config_file", str(recipes_folder() / "accelerate" / "multi_gpu.yaml")]
    else:
        here = os.cpu_count() or 1
        start = ["--cpu"]
    processes = max(1, min(recorded.processes, here))
    return [*start, "--num_processes", str(processes), "--mixed_precision", recorded.mixed_precision]

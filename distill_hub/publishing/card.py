"""The dataset card: a pure function of manifest and evaluation records, through `cards/dataset_card.md.jinja`."""

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from distill_hub.artifact.cost import cost_parts, own_stages, total_cost
from distill_hub.artifact.find import folder_bytes
from distill_hub.artifact.findings import warnings
from distill_hub.artifact.manifest import ClassRecord, Manifest
from distill_hub.artifact.names import CORESETS, RECIPES, is_synthetic, model_name, set_title, source_name
from distill_hub.artifact.records import RANDOM, REAL, EvaluationRecord
from distill_hub.artifact.schema import features
from distill_hub.artifact.source import SourceRecord
from distill_hub.disk.files import shipped, slug
from distill_hub.hub import address, page_of
from distill_hub.publishing.imagenet import PROMPT, shows_imagenet
from distill_hub.publishing.markdown import attribute, code, fenced, link, one_line, plain
from distill_hub.publishing.plots import preview_width
from distill_hub.publishing.tags import card_tags
from distill_hub.running.console import duration, size_text
from distill_hub.views.columns import stored_name, view_features

# https://huggingface.co/docs/hub/repositories-licenses; anything else is "other" with a name
HUB_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0
    c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
    deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl
    postgresql unknown unlicense wtfpl zlib
"""
PREVIEW = "assets/preview.png"
PICTURES = {  # those a set may have, and what they show
    PREVIEW: "its images, class by class",
    "assets/refinement.png": "images before and after their refinement, and the difference, amplified",
    "assets/guidance.png": "images drawn from the same noise, plainly and guided, and the difference, amplified",
    "assets/embedding.png": "embeddings by the teacher, in two dimensions, of real images, of the pool and of this set",
    "assets/difficulty.png": "difficulty of the real images, of the pool, and of those chosen",
    "assets/losses.png": "losses of the generator's fine-tuning, by optimiser step",
    "assets/curves.png": "test accuracy of the students during their training, by epoch",
}
PREVIEW_SIDE = 360  # pixels on the card, at most
SOFT_LABEL_MEANING = {
    "teacher": "the teacher's probabilities at temperature 1; for temperature τ, take softmax(log p / τ)",
    "author": "probabilities as the set's author gave them; their teacher and temperature are not on record",
    "learned": "probabilities that were optimised together with the images; `label` is the class that an image started from",
    "one-hot": "1 for `label`, 0 elsewhere: no teacher is on record",
}
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def cards_folder() -> Path:
    """Return the folder of card templates and FORMAT.md."""
    return shipped("cards")


def render_card(
    manifest: Manifest,
    evaluations: Sequence[EvaluationRecord],
    *,
    location: str,
    files: Mapping[str, int],
) -> str:
    """Write the README.md of a distilled set.

    Args:
        manifest: The set's record.
        evaluations: Its results, in the order of the table; may be empty.
        location: What a reader passes to `load_dataset`: a Hub id or a folder.
        files: Name and size in bytes of the set's files. Those of `PICTURES` are shown.

    Returns:
        YAML block and Markdown.
    """
    source, views = manifest.source, manifest.views
    size_bytes = {kind: folder_bytes(files, kind) for kind in ("data", "views")}
    text = fill_template(
        "dataset_card.md.jinja",
        yaml=_card_data(manifest, size_bytes).to_yaml(),
        m=manifest,
        title=set_title(manifest),
        is_synthetic=is_synthetic(manifest.method),
        headline=(headline := headline_of(evaluations)),
        rivals=_rivals(headline) if headline else {},
        evaluations=evaluations,
        warnings=warnings(evaluations, manifest),
        stages=own_stages(manifest),
        cost=(cost := cost_parts(manifest)),
        total=total_cost(cost),
        distance=next((e.mmd for e in evaluations if e.mmd is not None), None),
        location=location,
        pictures={name: text for name, text in PICTURES.items() if name in files},
        preview_width=preview_width(manifest.class_names, manifest.counts, manifest.image_size, PREVIEW_SIDE),
        size=size_text(size_bytes["data"]),
        views_size=size_text(size_bytes["views"]),
        label_bytes=4 * manifest.rows * len(manifest.classes),
        view_label_bytes=views.rows * views.logit_bytes(len(manifest.classes)) if views else 0,
        view_column=lambda name: stored_name(name, views),
        soft_label_meaning=SOFT_LABEL_MEANING[manifest.soft_labels],
        test_split=test_split(source),
        classes_say_nothing=_say_nothing(manifest.classes),
        show_wnid=any(c.wnid for c in manifest.classes),
        show_generator=any(c.generator_index is not None for c in manifest.classes),
        show_prompt=any(c.prompt for c in manifest.classes),
        bibtex=cited(manifest.method.bibtex, source.bibtex),
    )
    return str(DatasetCard(text))  # which refuses broken YAML


def headline_of(evaluations: Sequence[EvaluationRecord]) -> EvaluationRecord | None:
    """Return the record that a card begins with: the author's before another one's, the literature's before any other."""
    return min(evaluations, key=lambda e: (e.submitted_by is not None, not e.standard), default=None)


def _rivals(record: EvaluationRecord) -> dict[str, str]:
    """Return what a set is held against on the first screen, in words, and the accuracies in percent."""
    baselines = record.baselines
    found = {"random real images": baselines[RANDOM].percent()} if RANDOM in baselines else {}
    if coresets := [name for name in CORESETS if name in baselines]:
        best = max(coresets, key=lambda name: baselines[name].mean)
        found[f"best coreset, {best}"] = baselines[best].percent()
    if REAL in baselines:
        found["all real images"] = baselines[REAL].percent()
    elif record.dd_ranking:
        found["all real images"] = f"{100 * record.dd_ranking.real_accuracy:.1f}"
    return found


def _say_nothing(classes: Sequence[ClassRecord]) -> bool:
    """Whether every class is called as it is numbered, here and in the source, and nothing else is on record of it."""
    said = [(c.name, str(c.source_index), c.wnid, c.generator_index, c.prompt) for c in classes]
    return said == [(str(label), str(label), None, None, None) for label in range(len(classes))]


def fill_template(name: str, **facts: Any) -> str:
    """Fill a card's template; one blank line between paragraphs, whichever optional parts are there.

    The YAML block stays as it is: blank lines in it may be part of a name.
    """
    text = _environment().get_template(name).render(**facts)
    block, body = re.fullmatch(r"(---\n.*?\n---\n)(.*)", text, re.DOTALL).groups()
    return block + re.sub(r"\n{3,}", "\n\n", body)


def templates(**how: Any) -> jinja2.Environment:
    """Open the templates; a name that nobody gave is an error, and a line that holds a tag alone leaves none."""
    folder = jinja2.FileSystemLoader(cards_folder())
    return jinja2.Environment(loader=folder, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **how)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = templates(keep_trailing_newline=True)
    environment.filters |= {
        "attribute": attribute,
        "cell": plain,
        "code": code,
        "fenced": fenced,
        "setting": _setting,
        "duration": duration,
        "bytes": size_text,
        "shell": lambda text: shlex.quote(one_line(text)),
        "tojson_plain": lambda text: json.dumps(text, ensure_ascii=False),  # jinja's own escapes for HTML
        "or_empty": lambda value: "" if value is None else plain(value),
        "or_duration": lambda seconds: "unknown" if seconds is None else duration(seconds),
        "or_unstated": lambda value: "not stated" if value is None else plain(value),
        "source_link": _source_link,
        "recipe": lambda method: RECIPES.get(method, method),
        "method_link": lambda method: link(method.title, method.paper),
        "model_name": lambda model: plain(model_name(model)),
    }
    environment.globals["hub"] = address()
    return environment


def _source_link(source: SourceRecord) -> str:
    return link(source.hub_id, page_of(source.hub_id, "dataset")) if source.hub_id else plain(source_name(source))


def source_argument(source: SourceRecord) -> str:
    """Return what a reader passes as --source."""
    return source.name if not source.is_folder else f"path/to/{slug(source.name)}"


def test_split(source: SourceRecord) -> str:
    """Say on which images of a source students are tested, in Markdown."""
    if source.test_fraction:
        return f"{source.test_fraction:.0%} of its training split, held out"
    return f"its split {code(source.test_split)}"


def cited(*entries: str | None) -> str:
    """Join the BibTeX entries that there are."""
    return "\n\n".join(entry.strip() for entry in entries if entry)


def _card_data(manifest: Manifest, size_bytes: Mapping[str, int]) -> DatasetCardData:
    rows, is_hard = manifest.rows, manifest.soft_labels == "one-hot"
    data = DatasetCardData(
        **license_fields(manifest.license),
        pretty_name=set_title(manifest),
        tags=card_tags(manifest),
        task_categories=["image-classification"],
        task_ids=["multi-class-image-classification"],
        annotations_creators=["found" if is_hard and is_synthetic(manifest.method) is False else "machine-generated"],
        size_categories=[next((name for limit, name in SIZE_CATEGORIES if rows < limit), "1M<n<10M")],
        source_datasets=[manifest.source.hub_id or "original"],
    )
    if shows_imagenet(manifest):
        data["extra_gated_prompt"] = PROMPT
    infos = {"default": _info(features(manifest.class_names, manifest.free_side), rows, size_bytes["data"])}
    configs = {"default": {"data_files": [{"split": "train", "path": "data/train-*"}], "default": True}}
    if manifest.views:
        infos["views"] = _info(
            view_features(manifest.views, len(manifest.classes)), manifest.views.rows, size_bytes["views"]
        )
        configs["views"] = {"data_files": [{"split": "train", "path": "views/train-*"}]}
    DatasetInfosDict(infos).to_dataset_card_data(data)
    MetadataConfigs(configs).to_dataset_card_data(data)
    return data


def _info(columns: Features, rows: int, size_bytes: int) -> DatasetInfo:
    splits = SplitDict({"train": SplitInfo("train", num_bytes=size_bytes, num_examples=rows)})
    return DatasetInfo(features=columns, splits=splits, download_size=size_bytes, dataset_size=size_bytes)


def license_fields(license: str | None) -> dict[str, str]:
    """Return the YAML fields that state a licence as the Hub knows it; none for an unknown one."""
    if license is None:
        return {}
    if license.lower() in HUB_LICENSES.split():
        return {"license": license.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-")}


def _setting(value: Any) -> str:
    return "not set" if value is None else code(value if isinstance(value, str) else json.dumps(value), in_table=True)

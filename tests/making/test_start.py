"""What the start of a recipe refuses before work is done for it."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from distill_hub.artifact.manifest import ModelRecord
from distill_hub.config import InputError, resolved
from distill_hub.evaluation import views as drawing
from distill_hub.generating.open import Located
from distill_hub.making import generated, start
from distill_hub.methods import cao2
from distill_hub.options.cao2 import Cao2Config
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.options.plain import PlainConfig
from distill_hub.options.shared import PixelOptions


@pytest.fixture
def masked(monkeypatch):
    """A generator of another kind; whatever comes after its opening fails."""
    facts = SimpleNamespace(name="MAR", classes=None)
    generator = SimpleNamespace(facts=facts, class_names=list("0123456789"), image_size=16)
    monkeypatch.setattr(generated, "open_generator", lambda *args, **kwargs: (generator, "org/mar-base"))
    monkeypatch.setattr(generated, "locate", lambda *_: Located("dit", "org/mar-base"))
    monkeypatch.setattr(generated, "open_teacher", lambda *args, **kwargs: (_ for _ in ()).throw(LookupError("the teacher")))
    return generator


def test_a_generator_that_a_method_cannot_tune_is_refused_before_a_teacher_is_fitted(masked, tmp_path):
    with pytest.raises(InputError, match=r"^generator: 'auto' cannot be used; it is of the kind dit; minimax needs sit$"):
        generated.set_up_generator(MinimaxConfig(output_dir=tmp_path / "a"), "minimax", kinds=["sit"])
    assert not (tmp_path / "a").exists()
    with pytest.raises(LookupError, match="the teacher"):  # other methods go on
        generated.set_up_generator(PlainConfig(output_dir=tmp_path / "b"), "dit")


def test_what_a_generator_tuned_in_groups_cannot_draw_is_refused_before_a_teacher_is_fitted(masked, tmp_path):
    masked.facts.classes = frozenset(range(8))
    with pytest.raises(InputError, match=r"^generator: 'org/mar-base' .* tuned in groups of classes, and not on: 8, 9$"):
        generated.set_up_generator(PlainConfig(output_dir=tmp_path / "a"), "dit")
    masked.facts.classes = frozenset(range(10))
    with pytest.raises(InputError, match=r"^condition: 'null' cannot be used; the generator was tuned in groups"):
        generated.set_up_generator(PlainConfig(output_dir=tmp_path / "b"), "cao2", without_class=True)
    with pytest.raises(LookupError, match="the teacher"):
        generated.set_up_generator(PlainConfig(output_dir=tmp_path / "c"), "dit")


@pytest.mark.parametrize(("kind", "given", "taken"), [("mar", None, 1e-4), ("dit", None, 6e-4), ("mar", 0.5, 0.5)])
def test_an_option_may_have_a_default_for_each_kind(masked, monkeypatch, tmp_path, kind, given, taken):
    monkeypatch.setattr(generated, "locate", lambda *_: Located(kind, "org/mar-base"))
    monkeypatch.setattr(start, "open_run", lambda folder, settings, **_: (_ for _ in ()).throw(LookupError(settings)))
    config, rate = Cao2Config(output_dir=tmp_path / "a", refine_learning_rate=given), cao2.learning_rate
    with pytest.raises(LookupError) as opened:
        generated.set_up_generator(config, "cao2", by_kind={"refine_learning_rate": rate})
    assert opened.value.args[0]["refine_learning_rate"] == taken  # before the run's folder is opened


def test_views_that_are_too_large_are_offered_before_work_and_made_where_asked_for(masked, monkeypatch, tmp_path, capsys):
    def said(**asked):
        with pytest.raises(LookupError, match="the teacher"):
            generated.set_up_generator(PlainConfig(output_dir=tmp_path / str(asked), **asked), "dit")
        return capsys.readouterr().out

    assert "Views are not stored" not in said()
    monkeypatch.setattr(drawing, "WRITTEN_BY_DEFAULT", 0)
    line = next(line for line in said(ipc=10).splitlines() if "Views are not stored" in line)
    assert "1.3 MB (--view_epochs 300)" in line and line.endswith("both 19 kB")
    for asked in ({"view_epochs": 0}, {"label_share": 0.1}, {"top_k": 3}):
        assert "Views are not stored" not in said(**asked)


def test_what_is_made_depends_on_nothing_of_its_views():
    def made_from(**asked):
        config = PlainConfig(**asked)
        parts = dict.fromkeys(field.name for field in dataclasses.fields(start.Setup))
        parts |= {
            "config": config,
            "run": SimpleNamespace(settings=resolved(config)),
            "teacher_record": SimpleNamespace(sha256=""),
        }
        return start.Setup(**parts).made_from

    assert made_from() == made_from(view_epochs=3, label_share=0.1, top_k=3) != made_from(seed=1)


def test_views_have_the_batches_of_the_protocol_that_replays_them():
    def batch_size(name, size=224):
        source = SimpleNamespace(classes=range(1000), mirrored=True)
        parts = dict.fromkeys(field.name for field in dataclasses.fields(start.Setup))
        config = PlainConfig(protocol=name, students="resnet-18-bn", ipc=1, label_share=0.1)
        setup = start.Setup(**{**parts, "config": config, "source": source, "image_size": size})
        assert setup.protocol.labels == ("teacher" if name == "sre2l" else "views")
        return setup.views["batch_size"]

    assert [batch_size(name) for name in ("fkd", "lpld", "lpqld", "sre2l")] == [None, 128, 128, None]
    assert batch_size("lpqld", 64) == 64


def test_what_is_made_depends_on_what_decodes_latents_and_on_prompts():
    """By weights and text: a folder or file may hold others under the same name."""

    def made_from(vae, prompts=None):
        record = ModelRecord(id="org/dit", architecture="DiT", sha256="1" * 64, vae=vae)
        names = "name", "source", "image_size", "test", "teacher", "destination", "generator", "class_ids"
        parts = dict.fromkeys((*names, "selector", "selector_record"))
        parts["generator"] = SimpleNamespace(facts=SimpleNamespace(prompts=prompts))
        run, teacher = SimpleNamespace(settings={"vae": "folder"}), SimpleNamespace(sha256="2" * 64)
        setup = generated.GeneratorSetup(PlainConfig(), run=run, teacher_record=teacher, generator_record=record, **parts)
        return setup.made_from

    one, other = (ModelRecord(id="folder", architecture="AutoencoderKL", sha256=s * 64) for s in "34")
    assert made_from(one) == made_from(one)
    assert len({str(made_from(vae)) for vae in (None, one, other)}) == 3
    assert len({str(made_from(None, prompts)) for prompts in (None, ("a cat", ""), ("a dog", ""))}) == 3


def test_images_of_several_sizes_get_one_that_is_recorded_where_a_teacher_is_fitted(digits, monkeypatch, tmp_path):
    images = [Image.new("RGB", (side, 40)) for side in (33, 70)] * 5
    both = Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature(decode=False)}))
    train = dataclasses.replace(digits.train, dataset=both, labels=np.arange(10))
    monkeypatch.setattr(start, "load_source", lambda *args, **kwargs: dataclasses.replace(digits, train=train))
    seen = []

    def fit(run, test, size, **settings):
        seen.append(size)
        raise LookupError("the teacher")

    monkeypatch.setattr(start, "open_teacher", fit)
    with pytest.raises(LookupError):
        start.set_up(PixelOptions(ipc=1, output_dir=tmp_path / "set"), "herding")
    assert seen == [32] and '"image_size": 32' in (tmp_path / "set" / ".run" / "config.json").read_text()


def test_students_too_deep_for_the_images_are_refused_before_a_teacher_is_fitted(masked, tmp_path):
    with pytest.raises(InputError, match=r"^students: 'convnet-5' cannot be used; 16 px allow a depth of 4$"):
        start.set_up(PixelOptions(students="convnet-5", output_dir=tmp_path / "a"), "herding")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match=r"^students: 'convnet-5' cannot be used; 16 px allow a depth of 4$"):
        generated.set_up_generator(PlainConfig(students="convnet-5", output_dir=tmp_path / "b"), "dit")

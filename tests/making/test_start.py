"""What the start of a recipe refuses before work is done for it."""

from types import SimpleNamespace

import pytest

from distill_hub.config import InputError
from distill_hub.making import start
from distill_hub.options.dit import DitConfig
from distill_hub.options.minimax import MinimaxConfig


@pytest.fixture
def masked(monkeypatch):
    """A generator of another kind; whatever comes after its opening fails."""
    generator = SimpleNamespace(facts=SimpleNamespace(name="MAR"), class_names=list("0123456789"), image_size=16)
    monkeypatch.setattr(start, "open_generator", lambda *args, **kwargs: (generator, "org/mar-base"))
    monkeypatch.setattr(start, "open_teacher", lambda *args, **kwargs: (_ for _ in ()).throw(LookupError("the teacher")))


def test_a_generator_that_a_method_cannot_tune_is_refused_before_a_teacher_is_fitted(masked, tmp_path):
    with pytest.raises(InputError, match=r"^generator: 'org/mar-base' cannot be used; it is a MAR; minimax needs a DiT$"):
        start.set_up_generator(MinimaxConfig(output_dir=tmp_path / "a"), "minimax", kind="DiT")
    with pytest.raises(LookupError, match="the teacher"):  # other methods go on
        start.set_up_generator(DitConfig(output_dir=tmp_path / "b"), "dit")

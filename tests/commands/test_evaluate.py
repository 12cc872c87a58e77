"""What `distill-hub evaluate` does with scores of students that did not train."""

import pytest

from distill_hub.artifact.records import Comparison, Score
from distill_hub.commands.evaluate import _comparison_table, _refuse_collapsed
from distill_hub.config import InputError


def test_scores_of_students_that_did_not_train_are_not_sent_unless_that_is_meant(make_evaluation):
    test = {"test_images": 32, "chance": 0.2}
    flat = Score(last=[0.19, 0.2, 0.21], best=[0.2, 0.2, 0.21], best_epoch=[1, 1, 1])
    good = Score(last=[0.6, 0.7, 0.8], best=[0.6, 0.7, 0.8], best_epoch=[1, 1, 1])
    pair = Comparison(make_evaluation("0" * 64, score=flat, baselines={"random real": good}, **test))
    with pytest.raises(InputError, match=r"submit: .*convnet2 on this set.*--even_if_collapsed.*trains nothing again"):
        _refuse_collapsed([pair], even_so=False)
    _refuse_collapsed([pair], even_so=True)
    _refuse_collapsed([Comparison(make_evaluation("0" * 64, score=good, baselines={}, **test))], even_so=False)
    caption = _comparison_table([pair]).caption.plain
    assert "COLLAPSED in 3 of 3 seeds" in caption and "BELOW as many random real images, by 50.0" in caption
    assert "quick v1 is NOT of the literature" in caption

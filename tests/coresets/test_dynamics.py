"""Training dynamics: what is taken down of a batch, what is made of it, and what is refused."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distill_hub.config import InputError
from distill_hub.coresets.dynamics import Recorder, aum, dynamics_of, el2n, forgetting, read_dynamics, write_dynamics
from distill_hub.coresets.names import DYNAMICS


def test_a_batch_is_taken_down_where_its_images_are():
    recorder = Recorder(2, 4, torch.device("cpu"))
    logits = torch.tensor([[2.0, -1, 0.5], [1, 1, 3]])
    recorder.note(torch.tensor([3, 1]), logits, torch.tensor([0, 1]))
    recorder.end_epoch(0)
    probabilities = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    errors = np.linalg.norm(probabilities - np.eye(3)[[0, 1]], axis=1)
    margin, error = recorder.state["margin"], recorder.state["error"]
    assert margin[0].tolist() == [0, -2, 0, 1.5] and error[0].tolist() == pytest.approx([-1, errors[1], -1, errors[0]])
    assert (error[1] == -1).all()
    # Shares of several processes are added up.
    recorder.note(torch.tensor([0]), logits[:1], torch.tensor([2]))
    recorder.end_epoch(1, lambda own: own + torch.tensor([[0, 0, 5.0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]))
    assert margin[1].tolist() == [-1.5, 0, 5, 0] and error[1, 1:].tolist() == [-1, 0, -1]


def recorded(epochs, images, seed):
    """Margins around 0 and errors, of which an epoch leaves out some."""
    rng = np.random.default_rng(seed)
    margin, error = rng.normal(size=(epochs, images)), rng.random((epochs, images))
    error[rng.random((epochs, images)) < 0.2] = -1
    error[-1, (error < 0).all(0)] = 0.5
    return margin.astype(np.float32), error.astype(np.float32)


def test_scores_as_loops_over_images_and_epochs():
    margin, error = recorded(6, 50, 0)
    margin[:, :5] = -1  # never right
    found = [of(torch.from_numpy(margin), torch.from_numpy(error)).tolist() for of in (aum, forgetting)]
    for image in range(50):
        shown = [epoch for epoch in range(6) if error[epoch, image] >= 0]
        assert found[0][image] == pytest.approx(np.mean(margin[shown, image].astype(float)))
        right = [margin[epoch, image] > 0 for epoch in shown]
        events = sum(before and not after for before, after in itertools.pairwise(right))
        assert found[1][image] == (events if any(right) else len(shown))
    early = el2n(torch.from_numpy(error), 2).tolist()
    expected = [next((e for e in error[1::-1, image].tolist() if e >= 0), np.nan) for image in range(50)]
    np.testing.assert_array_equal(early, expected)
    assert np.isnan(expected).any()  # unseen so far


def test_difficulty_is_a_mean_over_networks_and_larger_is_harder(tmp_path, digits):
    each = [tuple(map(torch.from_numpy, recorded(4, len(digits.train), seed))) for seed in (1, 2)]
    for place, (margin, error) in enumerate(each):
        (tmp_path / str(place)).mkdir()
        write_dynamics(tmp_path / str(place) / DYNAMICS, {"margin": margin, "error": error}, digits, "convnet-1", 16, place)
    both = read_dynamics(digits, f"{tmp_path}/0, {tmp_path}/1")
    one = read_dynamics(digits, f"{tmp_path}/0")
    torch.testing.assert_close(both.difficulty("aum", 4), -(aum(*each[0]) + aum(*each[1])) / 2)
    torch.testing.assert_close(one.difficulty("el2n", 4), el2n(each[0][1], 4))
    assert one.difficulty("forgetting", 4).equal(forgetting(*each[0])) and both.sha256 != one.sha256
    with pytest.raises(InputError, match=r"images were not seen by then; more epochs are needed"):
        one.difficulty("el2n", 1)


def test_what_is_not_of_these_images_is_refused_in_a_line(tmp_path, digits):
    file, good = tmp_path / DYNAMICS, {name: torch.ones(2, len(digits.train)) for name in ("margin", "error")}

    def refused(state, **facts):
        save_file({name: tensor.clone() for name, tensor in state.items()}, file, facts)
        with pytest.raises(InputError) as caught:
            dynamics_of(digits, [("mine", file)])
        assert "\n" not in str(caught.value) and str(caught.value).startswith("dynamics: 'mine'")
        return str(caught.value)

    mine = {"source_fingerprint": digits.fingerprint}
    assert "recorded on other images, of fish; here they are those of digits" in refused(good, source="fish")
    assert "(2, 7) values for 1297 images" in refused(dict.fromkeys(good, torch.ones(2, 7)), **mine)
    assert "no finite number" in refused(good | {"error": torch.full_like(good["error"], torch.nan)}, **mine)
    assert "is needed" in refused({"margin": good["margin"]}, **mine)
    file.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="fit_classifier --dynamics"):
        read_dynamics(digits, str(tmp_path))
    file.unlink()
    with pytest.raises(InputError, match="there is no dynamics"):
        read_dynamics(digits, str(tmp_path))
    other = dataclasses.replace(digits, train=digits.train.select(range(100), "train"))
    write_dynamics(file, good, digits, "convnet-1", 16, 0)
    with pytest.raises(InputError, match="other images"):
        read_dynamics(other, str(tmp_path))

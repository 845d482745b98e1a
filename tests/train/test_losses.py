"""Every loss is what its paper says, in float64 and in numpy; ignored pixels are as if they were not there."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geoseg.errors import ConfigError
from geoseg.train import IGNORE
from geoseg.train.distances import signed_distances
from geoseg.train.loss_names import LossTerm, loss_by_name
from geoseg.train.losses import LOSSES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLASSES = 3
WEIGHTS = (0.5, 1.0, 3.0)
OPTIONS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"weights": WEIGHTS, "smoothing": 0.2},
    "weighted": {"weights": WEIGHTS},
    "focal": {"gamma": 1.5, "weights": WEIGHTS},
    "smoothed": {"smoothing": 0.3},
    "tversky": {"false_positives": 0.2, "false_negatives": 0.9},
    "focal_tversky": {"false_positives": 0.4, "false_negatives": 0.6, "gamma": 2.0},
}
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in LOSSES if name != "weighted"] + list(OPTIONS.items())


def scene(seed: int, classes: int = CLASSES, ignored: float = 0.3, side: int = 5) -> tuple[Tensor, Tensor]:
    """Logits float64 (2, class, side, side + 1) and labels, some of them ignored."""
    random = torch.Generator().manual_seed(seed)
    shape = (2, side, side + 1)
    logits = 2 * torch.randn(2, classes, *shape[1:], dtype=torch.float64, generator=random)
    labels = torch.randint(0, classes, shape, generator=random)
    return logits, torch.where(torch.rand(shape, generator=random) < ignored, IGNORE, labels)


def table(logits: Tensor, labels: Tensor) -> tuple[Floats, Ints]:
    """Probabilities (pixel, class) and labels (pixel), pixel by pixel and without torch."""
    rows: list[Floats] = []
    truth: list[int] = []
    scores, classes = logits.detach().double().numpy(), labels.numpy()
    for place in np.ndindex(*classes.shape):
        if classes[place] != IGNORE:
            raised = np.exp(scores[place[0], :, *place[1:]] - scores[place[0], :, *place[1:]].max())
            rows.append(raised / raised.sum())
            truth.append(int(classes[place]))
    return np.array(rows), np.array(truth)


# --- references ---


def entropy_reference(
    probs: Floats, truth: Ints, weights: Any = None, smoothing: float = 0.0, gamma: float = 0.0
) -> float:
    given_weights = np.ones(probs.shape[1]) if weights is None else np.array(weights)
    total = weight_sum = 0.0
    for row, own in zip(probs, truth, strict=True):
        target = np.full(len(row), smoothing / len(row))
        target[own] += 1 - smoothing
        total -= given_weights[own] * (1 - row[own]) ** gamma * float(target @ np.log(row))
        weight_sum += given_weights[own]
    return total / weight_sum


def tversky_reference(probs: Floats, truth: Ints, alpha: float, beta: float, power: float = 1.0) -> float:
    losses = []
    for value in np.unique(truth):
        own, mine = probs[:, value], truth == value
        both, positives, negatives = own[mine].sum(), own[~mine].sum(), (1 - own[mine]).sum()
        losses.append((1 - both / (both + alpha * positives + beta * negatives)) ** power)
    return float(np.mean(losses))


def lovasz_reference(probs: Floats, truth: Ints) -> float:
    """The definition: errors from the worst down, each times what the Jaccard loss of the set of pixels gains."""
    losses = []
    for value in np.unique(truth):
        mine = truth == value
        errors = np.abs(mine - probs[:, value])
        wrong = np.zeros(len(truth), bool)
        loss = before = 0.0
        for place in np.argsort(-errors, kind="stable"):
            wrong[place] = True
            after = wrong.sum() / (mine | wrong).sum()
            loss += errors[place] * (after - before)
            before = after
        losses.append(loss)
    return float(np.mean(losses))


def distances_reference(labels: Ints, classes: int) -> Floats:
    """From every pixel to every other, (n, class, row, col)."""
    found = np.zeros((len(labels), classes, *labels.shape[1:]))
    places = np.argwhere(np.ones(labels.shape[1:], bool))
    for image, value in np.ndindex(len(labels), classes):
        inside = labels[image] == value
        outside = ~inside & (labels[image] != IGNORE)
        if inside.any() and outside.any():
            into, out = (
                np.linalg.norm(places[:, None] - places[side.ravel()], axis=2).min(1) for side in (inside, outside)
            )
            found[image, value] = np.where(inside, -out.reshape(inside.shape), outside * into.reshape(inside.shape))
    return found


def reference(name: str, options: dict[str, Any], logits: Tensor, labels: Tensor) -> float:
    probs, truth = table(logits, labels)
    alpha, beta = options.get("false_positives", 0.3), options.get("false_negatives", 0.7)
    answers: dict[str, Callable[[], float]] = {
        "cross_entropy": lambda: entropy_reference(probs, truth, **options),
        "weighted": lambda: entropy_reference(probs, truth, **options),
        "smoothed": lambda: entropy_reference(probs, truth, **({"smoothing": 0.1} | options)),
        "focal": lambda: entropy_reference(probs, truth, **({"gamma": 2.0} | options)),
        "dice": lambda: tversky_reference(probs, truth, 0.5, 0.5),
        "jaccard": lambda: tversky_reference(probs, truth, 1.0, 1.0),
        "tversky": lambda: tversky_reference(probs, truth, alpha, beta),
        "focal_tversky": lambda: tversky_reference(probs, truth, alpha, beta, 1 / options.get("gamma", 4 / 3)),
        "lovasz": lambda: lovasz_reference(probs, truth),
    }
    if name == "boundary":
        distances = distances_reference(labels.numpy(), logits.shape[1])
        return float((probs * np.moveaxis(distances, 1, -1)[labels.numpy() != IGNORE]).mean())
    return answers[name]()


# --- what they promise ---


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_equals_its_definition(name: str, options: dict[str, Any], seed: int) -> None:
    logits, labels = scene(seed)
    expected = reference(name, options, logits, labels)
    assert LOSSES[name](logits, labels, **options).item() == pytest.approx(expected, abs=1e-12)
    assert LOSSES[name](logits.float(), labels, **options).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_class_that_the_labels_lack_is_left_out(name: str, options: dict[str, Any]) -> None:
    logits, labels = scene(7)
    labels[labels == 1] = IGNORE
    assert LOSSES[name](logits, labels, **options).item() == pytest.approx(
        reference(name, options, logits, labels), abs=1e-12
    )


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients_are_those_of_finite_differences(name: str, options: dict[str, Any]) -> None:
    logits, labels = scene(11, side=3)
    assert torch.autograd.gradcheck(lambda scores: LOSSES[name](scores, labels, **options), logits.requires_grad_())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_ignored_pixels_have_no_part_whatever_the_net_says_there(name: str, options: dict[str, Any]) -> None:
    logits, labels = scene(3)
    known = labels != IGNORE
    spoilt = torch.where(known[:, None], logits, torch.nan).requires_grad_()
    loss = LOSSES[name](spoilt, labels, **options)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == LOSSES[name](logits, labels, **options).item()
    assert spoilt.grad is not None
    assert (spoilt.grad.movedim(1, -1)[~known] == 0).all()
    assert (spoilt.grad.movedim(1, -1)[known] != 0).any()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_batch_without_labels_is_worth_nothing(name: str, options: dict[str, Any]) -> None:
    logits, labels = scene(4)
    logits.requires_grad_()
    loss = LOSSES[name](logits, torch.full_like(labels, IGNORE), **options)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(("name", "options"), [*CASES, ("focal", {"gamma": 0.5}), ("focal_tversky", {"gamma": 3.0})])
def test_a_net_that_is_certain_has_finite_gradients(name: str, options: dict[str, Any]) -> None:
    _, labels = scene(5, ignored=0.0)
    logits = (1000 * torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1)).float().requires_grad_()
    loss = LOSSES[name](logits, labels, **options)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_half_precision_is_computed_in_single(name: str, options: dict[str, Any]) -> None:
    logits, labels = scene(6)
    halved = logits.half()
    assert LOSSES[name](halved, labels, **options).item() == LOSSES[name](halved.float(), labels, **options).item()


def test_tversky_is_dice_and_jaccard_at_halves_and_ones() -> None:
    logits, labels = scene(8)
    for name, share in (("dice", 0.5), ("jaccard", 1.0)):
        found = LOSSES["tversky"](logits, labels, false_positives=share, false_negatives=share)
        assert found.item() == LOSSES[name](logits, labels).item()


@given(seed=st.integers(0, 10_000), classes=st.integers(1, 4), ignored=st.sampled_from([0.0, 0.2, 0.9, 1.0]))
def test_distances_are_those_to_the_nearest_of_all_pixels(seed: int, classes: int, ignored: float) -> None:
    _, labels = scene(seed, classes=classes, ignored=ignored, side=9)
    found = signed_distances(labels, labels != IGNORE, classes)
    np.testing.assert_allclose(found.numpy(), distances_reference(labels.numpy(), classes), rtol=1e-6)


# --- by name ---


def test_a_sum_by_name_is_the_sum() -> None:
    logits, labels = scene(9)
    for wanted in ("0.25*dice + 2*focal(gamma=3)", {"dice": 0.25, "focal": {"weight": 2, "gamma": 3}}):
        loss = loss_by_name(wanted)
        expected = 0.25 * LOSSES["dice"](logits, labels) + 2 * LOSSES["focal"](logits, labels, gamma=3)
        assert loss(logits, labels).item() == pytest.approx(expected.item(), abs=1e-12)
        assert pickle.loads(pickle.dumps(loss)) == loss == loss_by_name(str(loss))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_name(name: str) -> None:
    loss = loss_by_name(name, class_weights=WEIGHTS, ignore_index=0)
    assert loss.terms[0].name == name
    logits, labels = scene(10, ignored=0.0)
    expected = loss_by_name(name, class_weights=WEIGHTS)(logits, torch.where(labels == 0, IGNORE, labels))
    assert loss(logits, labels).item() == pytest.approx(expected.item(), abs=1e-12)


def test_weights_come_from_the_text_or_from_the_call() -> None:
    assert loss_by_name("weighted(weights=[1, 2])", class_weights=(9, 9)).terms == (
        LossTerm(name="weighted", options=(("weights", (1.0, 2.0)),)),
    )
    with pytest.raises(ConfigError, match="2 weights for 3 classes"):
        loss_by_name("weighted", class_weights=(1, 2))(*scene(1))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("dise", "no loss 'dise'; choose among cross_entropy"),
        ("focal(alpha=1)", "no option 'alpha'; it has gamma, weights"),
        ("dice(x=1)", "no option 'x'; it has none"),
        ("focal(gamma=-1)", "gamma is -1"),
        ("focal(gamma='2')", "gamma is '2'"),
        ("cross_entropy(smoothing=1)", "smoothing cannot be 1"),
        ("focal_tversky(gamma=0)", "gamma cannot be 0"),
        ("weighted", "one weight per class"),
        ("weighted(weights=3)", "weights is 3"),
        ("dice - focal", "cannot be read"),
        ("__import__('os').system('true')", "cannot be read"),
        ("dice(focal)", "cannot be read"),
        ("inf*dice", "cannot be read"),
        ("-1*dice", "weight is -1"),
        ("", "cannot be read"),
        ({}, "no loss is named"),
        ({"dice": "half"}, "weight is 'half'"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(wanted: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loss_by_name(wanted)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

"""What a procedure chooses when it is not told, and what it refuses."""

import pytest

from keyanon_core.procedure import (
    DEFAULT_METHOD,
    DEFAULT_STEPS,
    DEFAULT_TRANSFORM,
    METHODS,
    SHOWN_NOISE,
    TRANSFORMS,
    Procedure,
)


def test_the_default_is_one_of_the_names() -> None:
    assert DEFAULT_METHOD in METHODS and DEFAULT_TRANSFORM in TRANSFORMS
    assert Procedure() == Procedure("exact", "rotation", "none", 4)


@pytest.mark.parametrize(
    ("method", "transform", "inversion", "steps", "evaluations"),
    [
        ("exact", "rotation", "none", 4, 4),
        ("exact", "sign", "ddim", 12, 24),
        ("paper", "sign", "ddim", 12, 24),
        ("paper", "rotation", "ddim", 12, 24),
    ],
)
def test_inversion_and_steps_follow_from_method_and_transform(
    method: str, transform: str, inversion: str, steps: int, evaluations: int
) -> None:
    chosen = Procedure(method, transform)
    assert (chosen.inversion, chosen.steps, chosen.evaluations) == (inversion, steps, evaluations)
    assert DEFAULT_STEPS[inversion] == steps
    assert Procedure(method, transform, "ddim").inversion == "ddim"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "better"}, "unknown method 'better'; choose from exact, paper"),
        ({"transform": "shuffle"}, "unknown transform 'shuffle'; choose from rotation, sign"),
        ({"inversion": "euler"}, "unknown inversion 'euler'; choose from none, ddim"),
        ({"transform": "sign", "inversion": "none"}, "use inversion ddim"),
        ({"method": "paper", "inversion": "none"}, "use inversion ddim"),
        ({"steps": -1}, "do not walk"),
        ({"grid": (5,)}, "do not walk"),
        ({"grid": (0, 5, 5)}, "must rise"),
        ({"grid": (-1, 5)}, "must rise"),
        ({"grid": (0, 5), "steps": 2}, "one more than steps"),
    ],
)
def test_what_would_not_hide_a_face_or_can_not_be_walked_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Procedure(**asked)  # type: ignore[arg-type]


def test_a_grid_says_how_many_steps_it_has() -> None:
    assert Procedure(grid=(0, 5, 9)).steps == 2
    assert Procedure(grid=(0, 9)).steps == 1


def test_noise_is_shown_only_where_nothing_is_inverted() -> None:
    assert Procedure().shown() == Procedure(clean_noise=SHOWN_NOISE)
    assert Procedure(transform="sign").shown() == Procedure(transform="sign")


def test_few_steps_start_from_louder_noise() -> None:
    assert Procedure(steps=4).gain == pytest.approx(1 + 0.5 / 4)
    assert Procedure(steps=4).gain > Procedure(steps=6).gain
    assert Procedure(inversion="ddim").gain == 1


def test_a_procedure_is_told_in_words() -> None:
    assert str(Procedure()) == "exact, rotation, no inversion, 4 steps"
    assert str(Procedure("paper", "sign")) == "paper, sign, inversion ddim, 12 steps"

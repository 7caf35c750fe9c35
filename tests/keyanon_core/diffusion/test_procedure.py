"""What a procedure chooses when it is not told, and what it refuses."""

import pytest

from keyanon_core.procedure import (
    DEFAULT_METHOD,
    METHODS,
    SHOWN_NOISE,
    Procedure,
    chosen_steps,
)


def test_the_default_is_one_of_the_names() -> None:
    assert DEFAULT_METHOD in METHODS
    assert Procedure() == Procedure("exact", "rotation", "none", 4)


@pytest.mark.parametrize(
    ("method", "transform", "inversion", "steps", "evaluations"),
    [
        ("exact", "rotation", "none", 4, 4),
        ("exact", "sign", "ddim", 12, 24),
        ("paper", "sign", "ddim", 50, 100),
        ("paper", "rotation", "ddim", 50, 100),
        ("paper-inpaint", "sign", "ddim", 12, 24),
    ],
)
def test_inversion_and_steps_follow_from_method_and_transform(
    method: str, transform: str, inversion: str, steps: int, evaluations: int
) -> None:
    chosen = Procedure(method, transform)
    assert (chosen.inversion, chosen.steps, chosen.evaluations) == (inversion, steps, evaluations)
    assert chosen_steps(method, inversion) == steps
    assert Procedure(method, transform, "ddim").inversion == "ddim"
    assert Procedure(method).transform == ("rotation" if method == "exact" else "sign")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "better"}, "unknown method 'better'; choose from exact, paper, paper-inpaint"),
        ({"transform": "shuffle"}, "unknown transform 'shuffle'; choose from rotation, sign"),
        ({"inversion": "euler"}, "unknown inversion 'euler'; choose from none, ddim"),
        ({"transform": "sign", "inversion": "none"}, "use inversion ddim"),
        ({"method": "paper", "inversion": "none"}, "use inversion ddim"),
        ({"method": "paper", "grid": (0, 5, 9)}, "begin with the same one twice"),
        ({"method": "paper", "grid": (0, 0, 9, 9)}, "must rise"),
        ({"method": "paper-inpaint", "grid": (0, 0, 9)}, "must rise"),
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
    assert Procedure("paper", grid=(0, 0, 500)).steps == 2


def test_noise_is_shown_only_where_nothing_is_inverted() -> None:
    assert Procedure().shown() == Procedure(clean_noise=SHOWN_NOISE)
    assert Procedure(transform="sign").shown() == Procedure(transform="sign")


def test_few_steps_start_from_louder_noise() -> None:
    assert Procedure(steps=4).gain == pytest.approx(1 + 0.5 / 4)
    assert Procedure(steps=4).gain > Procedure(steps=6).gain
    assert Procedure(inversion="ddim").gain == 1


def test_a_procedure_is_told_in_words() -> None:
    assert str(Procedure()) == "exact, rotation, no inversion, 4 steps"
    assert str(Procedure("paper", "sign")) == "paper, sign, inversion ddim, 50 steps"

"""What attacks and defences say of themselves is in the words of the taxonomy, and kept through other decorators."""

from __future__ import annotations

from functools import wraps

import pytest

from taster.core.threat import Countermeasure, Threat, countermeasure, countermeasure_of, threat, threat_of
from taster.errors import SettingError
from taster.utils.settings import validate_settings

WORDS = ("targeted", "integrity", "grey box", "universal", "none", "round")


def plain(*, strength: float = 1.0) -> float:
    return strength


def test_a_function_says_what_it_is_and_stays_itself() -> None:
    said = threat(*WORDS, note="an example")(validate_settings(plain))
    assert threat_of(said) == Threat(*WORDS, influence="causative", note="an example")
    assert countermeasure_of(said) is None
    assert said(strength=2.0) == 2.0
    with pytest.raises(SettingError, match="strength"):
        said(strength="much")
    assert threat_of(plain) is None


def test_the_order_of_decorators_does_not_matter() -> None:
    @wraps(plain)
    def other(*, strength: float = 1.0) -> float:
        return strength

    assert threat_of(validate_settings(threat(*WORDS)(other))) == Threat(*WORDS)


def test_a_function_may_both_attack_and_defend() -> None:
    @countermeasure("test", "targeted integrity", "targeted availability", note="an example")
    @threat(*WORDS)
    def both() -> None: ...

    assert threat_of(both) == Threat(*WORDS)
    assert countermeasure_of(both) == Countermeasure(
        "test", ("targeted integrity", "targeted availability"), "an example"
    )


def test_what_is_no_threat_is_none() -> None:
    def impostor() -> None: ...

    impostor.__taster_threat__ = "a word"  # type: ignore[attr-defined]
    assert threat_of(impostor) is None


@pytest.mark.parametrize("place", range(6))
def test_a_word_that_the_taxonomy_does_not_have_is_told(place: int) -> None:
    words = list(WORDS)
    words[place] = "stealthy"
    with pytest.raises(SettingError, match=r": got 'stealthy', wanted one of \w+"):
        threat(*words)  # type: ignore[arg-type]


def test_faults_of_a_countermeasure_are_told() -> None:
    with pytest.raises(SettingError, match="kind: got 'magic', wanted one of regularization"):
        countermeasure("magic", "targeted integrity")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="against: got 'everything', wanted one of targeted integrity"):
        countermeasure("test", "targeted integrity", "everything")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="against: got nothing"):
        countermeasure("test")

"""The words that `allow` is written in."""

import pytest

from proxy.rules.permissions import Permissions
from tests.rules.permitting import verdict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no permission"),
        (" , ", "no permission"),
        ("Pateint.rs", r"Pateint is no FHIR resource type \(did you mean Patient\?\)"),
        ("patient.rs", "did you mean Patient"),
        (".rs", "nothing is no FHIR resource type"),
        ("Patient", r"such as Patient\.rs"),
        ("Patient.", r"such as Patient\.rs"),
        ("*", r"such as \*\.rs"),
        ("Patient.sr", r"in this order .*Patient\.rs"),
        ("Patient.rr", r"each once, such as Patient\.r$"),
        ("Patient.RS", r"Patient\.rs"),
        ("Patient.rsx", r"Patient\.rs"),
        ("Patient.read", r"Patient\.rs"),
        ("Patient.write", r"Patient\.cud"),
        ("Patient.*", r"Patient\.cruds"),
        ("Patient.rs?name=x", "refinements .* not supported"),
        ("Patient.rs?_security=x/y", "refinements .* not supported"),
        ("patient/Patient.rs", r"write Patient\.rs, without patient/"),
        ("system/*.cruds", r"write \*\.cruds, without system/"),
        ("Patient.$", "no name of an operation"),
        ("Patient.$a.b", "no name of an operation"),
        ("$export", "resource type"),
        ("Patient.rs Nothing.rs Patient.x", r"Nothing.*; Patient\.x"),
    ],
)
def test_a_word_that_is_wrong_is_told_with_what_is_meant(text, message):
    with pytest.raises(ValueError, match=message):
        Permissions.parse(text)


@pytest.mark.parametrize(
    "text", ["Patient.rs Observation.c", "Patient.rs,Observation.c", " Patient.rs,\n\tObservation.c ,"]
)
def test_words_stand_between_white_space_or_commas(text):
    assert verdict(text, "GET", "/Patient") == verdict(text, "POST", "/Observation") == ""
    assert not Permissions.parse(text).unrestricted


def test_only_the_word_for_everything_restricts_nothing():
    assert Permissions.parse("*.cruds").unrestricted
    assert Permissions.parse("Patient.r *.cruds").unrestricted
    assert not Permissions.parse("*.crud *.rs *.$*").unrestricted


def test_a_type_that_may_be_searched_is_found():
    assert Permissions.parse("*.cruds").searchable() == "Patient"
    assert Permissions.parse("Task.s Observation.rs Patient.r").searchable() == "Observation"
    assert Permissions.parse("Patient.cr Task.$*").searchable() is None

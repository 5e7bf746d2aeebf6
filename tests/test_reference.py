"""The notebooks' regression check: passes on what rounding does, fails on a 5 % regression."""

import dataclasses

import pytest
from made_up import made_up_run

from manyviews.reference import VALUES, ReferenceMismatch, check_reference, make_reference

RUN = made_up_run("baseline", 0, 0.4)


def moved(name: str, by: float):
    return dataclasses.replace(RUN, summary=RUN.summary | {name: RUN.summary[name] * (1 + by)})


def test_the_same_numbers_pass():
    assert check_reference(RUN, make_reference([RUN])) == "baseline: 5 values within 2% of the reference"


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("by", [-0.0005, 0.0005])
def test_rounding_passes(name, by):
    """0.05 % is what another processor did to a short run in float32; the notebooks compute in float64."""
    check_reference(moved(name, by), make_reference([RUN]))


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("by", [-0.05, 0.05])
def test_a_change_of_5_percent_fails_and_is_named(name, by):
    with pytest.raises(ReferenceMismatch, match=rf"baseline differs .*{name} is [\d.]+, was [\d.]+"):
        check_reference(moved(name, by), make_reference([RUN]))


def test_other_images_are_told_apart_from_other_training():
    other = dataclasses.replace(RUN, environment=RUN.environment | {"data_sha256": "other"})
    with pytest.raises(ReferenceMismatch, match="saw other images"):
        check_reference(other, make_reference([RUN]))


def test_a_reference_from_before_a_key_was_there_has_its_default():
    reference = make_reference([RUN])
    del reference["baseline"]["recipe"]["training"]["views_per_batch"]
    assert "5 values within" in check_reference(RUN, reference)


def test_another_configuration_is_not_compared():
    other = dataclasses.replace(RUN, config=RUN.config | {"seed": 5})
    assert "nothing compared" in check_reference(other, make_reference([RUN]))
    assert "nothing compared" in check_reference(RUN, {})

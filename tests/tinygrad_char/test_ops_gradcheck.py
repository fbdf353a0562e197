"""Every operation against central differences in float64."""

import pytest
from op_cases import CASES, check_gradients, differentiable, operations, recorded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_backward_agrees_with_central_differences(case):
    check_gradients(case)


def test_every_operation_is_checked():
    with recorded() as seen:
        for case in CASES:
            check_gradients(case)
    missing = {each.__name__ for each in operations() - seen}
    assert not missing, f"no gradient check for {missing}: add a case to op_cases.py"


def test_every_public_name_has_a_case():
    missing = differentiable() - {case.covers for case in CASES}
    assert not missing, f"no case for {missing}: add one to op_cases.py"


def test_names_of_cases_are_distinct():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)

"""Which data set each step reads."""

from fractions import Fraction

import numpy as np
import pytest

from jaxcap.data.mixture import Turns, shares_of, steps_of_epoch


def test_shares_follow_weights_or_else_sizes():
    assert shares_of((3.0, 0.0, 1.0), [10, 10, 10]) == (0.75, 0, 0.25)
    assert shares_of((), [10, 30]) == (0.25, 0.75)


def test_an_epoch_is_one_pass_over_the_first_data_set_that_is_read():
    assert steps_of_epoch((1.0,), [7]) == 7
    assert steps_of_epoch((0.75, 0.25), [93, 9]) == 124
    assert steps_of_epoch((0.0, 0.5, 0.5), [5, 8, 100]) == 16
    assert steps_of_epoch(shares_of((0.1, 0.2), [1, 1]), [10, 10]) == 30  # not 31 by rounding
    assert steps_of_epoch((0.3, 0.7), [10, 10]) == 34
    assert steps_of_epoch(shares_of((1e-320, 1.0), [1, 1]), [10, 10]) >= 2**31


def test_the_data_set_furthest_behind_its_share_is_read_next():
    chosen, places = Turns((0.5, 0.25, 0.25), (0, 0, 0)).up_to(8)
    # By hand; the first of equals.
    assert chosen.tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    assert places.tolist() == [0, 0, 0, 1, 2, 1, 1, 3]


@pytest.mark.parametrize("weights", [(1, 1), (5, 0, 1), (3, 2, 7, 1, 0), (60, 25, 258, 67, 20)])
def test_shares_hold_in_every_prefix(weights):
    steps = 500
    chosen, places = Turns(
        shares_of([float(w) for w in weights], [1] * len(weights)), (0,) * len(weights)
    ).up_to(steps)
    for i, weight in enumerate(weights):
        read = np.cumsum(chosen == i)
        due = [Fraction(weight, sum(weights)) * (step + 1) for step in range(steps)]
        assert max(abs(count - each) for count, each in zip(read.tolist(), due, strict=True)) <= 1
        np.testing.assert_array_equal(places[chosen == i], np.arange(read[-1]))


def test_a_single_data_set_is_read_at_every_step_wherever_the_stage_begins():
    chosen, places = Turns((1.0,), (5,)).up_to(9)
    assert (chosen.tolist(), places.tolist()) == ([0] * 4, [5, 6, 7, 8])
    assert Turns().up_to(0)[0].tolist() == []


def test_the_next_stage_reads_on_where_the_last_one_ended():
    first = Turns((0.75, 0.25), (0, 0))
    second = first.followed_by((0.0, 1.0), stop=8)
    assert (second.read, second.first_step) == ((6, 2), 8)
    assert second.up_to(10)[1].tolist() == [2, 3]
    assert second.followed_by((0.5, 0.5), stop=10).read == (6, 4)

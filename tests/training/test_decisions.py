import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbuy.cli.config import read_config
from nextbuy.errors import NextbuyError
from nextbuy.models.economics import OfferConfig, profit

LABELS = np.array([1, 0, 1, 0, 0], np.int8)
SURE = np.array([0.9, 0.5, 0.3, 0.1, 0.05])


def test_who_pays_for_the_contact_is_contacted():
    found = profit(LABELS, SURE, OfferConfig(margin_cents=1000, cost_cents=200))
    assert found["contacts"] == 3
    assert found["threshold"] == 0.3
    assert found["expected_cents"] == pytest.approx(1700 - 600)
    assert found["realized_cents"] == 2000 - 600
    assert found["best_realized_cents"] == 2000 - 600
    assert found["expected_cents_per_contact"] == pytest.approx(1100 / 3)


def test_a_budget_ends_the_contacts_earlier():
    offer = OfferConfig(margin_cents=1000, cost_cents=200, budget_cents=500)
    assert profit(LABELS, SURE, offer)["contacts"] == 2


def test_nobody_is_contacted_when_no_contact_pays():
    found = profit(LABELS, SURE, OfferConfig(margin_cents=100, cost_cents=200))
    assert (found["contacts"], found["expected_cents"], found["threshold"]) == (0, 0.0, 1.0)


def test_a_config_file_of_an_earlier_version_is_refused_with_the_new_name(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {offer: {gain_cents: 900, contact_cents: 90}}")
    names = r"gain_cents is now called margin_cents; contact_cents is now called cost_cents"
    with pytest.raises(NextbuyError, match=names):
        read_config(file)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 1))
def test_no_other_cut_is_expected_to_earn_more(chances, cost):
    sure = np.array(chances)
    offer = OfferConfig(margin_cents=100, cost_cents=100 * cost)
    found = profit(np.zeros(len(sure), np.int8), sure, offer)
    cuts = np.cumsum(np.sort(sure)[::-1] * 100 - 100 * cost)
    assert found["expected_cents"] >= max(0.0, cuts.max()) - 1e-9

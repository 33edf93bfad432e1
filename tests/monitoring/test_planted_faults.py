"""Each planted fault is told, clean months are quiet, and the page in the docs says just that."""

import re
from collections.abc import Iterator
from itertools import islice

import duckdb
import pytest

from nextbuy.settings import Settings
from tests.monitoring.faults import (
    CLEAN_SEEDS,
    DRIFTED,
    FAULT_SEED,
    GROSS,
    MONTH,
    MOST_FALSE,
    STEADY,
    SUBTLE,
    TABLE,
    clean_month,
    drifted,
    noticed,
)
from tests.monitoring.faults import simulated as simulate_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the table `clean`: the events of a simulated shop."""
    with duckdb.connect() as connection:
        simulate_shop(connection, tmp_path_factory.mktemp("shop"), FAULT_SEED)
        yield connection


@pytest.mark.parametrize("fault", GROSS)
def test_a_gross_fault_is_noticed_in_one_run(
    fault: str, shop: duckdb.DuckDBPyConnection, settings: Settings
) -> None:
    assert noticed(shop, GROSS[fault], settings)


@pytest.mark.parametrize("fault", DRIFTED)
def test_a_feature_that_moved_is_noticed(fault: str, shop: duckdb.DuckDBPyConnection) -> None:
    assert drifted(shop, DRIFTED[fault])


@pytest.mark.parametrize("feature", STEADY)
def test_a_feature_that_stayed_is_not(feature: str, shop: duckdb.DuckDBPyConnection) -> None:
    assert drifted(shop, STEADY[feature]) == []


def test_the_clean_shop_is_quiet(shop: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    assert noticed(shop, "FROM clean", settings) == []


def test_clean_months_raise_few_alarms() -> None:
    months = list(islice(CLEAN_SEEDS, 2))
    false = sum(len(clean_month(seed, rules_every=10)) for seed in months)
    assert false <= max(1, MOST_FALSE * MONTH * len(months))  # of sixty looks one may be


def test_the_docs_tell_of_every_fault_and_miss_no_gross_one() -> None:
    told = dict(
        line.removeprefix("| ").split(" | ")[:2]
        for line in TABLE.read_text().splitlines()
        if line.startswith("| ")
    )
    assert set(told) >= {*GROSS, *DRIFTED, *SUBTLE}
    assert not [fault for fault in (*GROSS, *DRIFTED) if "missed" in told[fault]]
    false, looks = map(int, re.search(r"(\d+) of (\d+) looks raised", TABLE.read_text()).groups())
    assert false <= MOST_FALSE * looks

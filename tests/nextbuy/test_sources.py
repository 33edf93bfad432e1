"""What a source file may say, and what is said about a wrong one."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA
from nextbuy.ingest.source import Source, load_sources
from nextbuy.settings import PROJECT

SHIPPED = sorted((PROJECT / "configs" / "sources").glob("*.yaml"))
SHOP: dict[str, Any] = {
    "name": "shop",
    "format": "csv",
    "fields": {"user_id": "u", "event_time": "t", "event_type": "e", "item_id": "i"},
    "event_types": {"pv": "view"},
}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_every_canonical_column_can_be_mapped() -> None:
    every = dict.fromkeys(EVENT_SCHEMA.names, "x")
    assert set(Source.model_validate(SHOP | {"fields": every}).fields) == set(EVENT_SCHEMA.names)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_mapping_is_named_after_its_file(path: Path) -> None:
    assert {source.name for source in load_sources(path)} == {path.stem}


@pytest.mark.parametrize(
    ("name", "with_items", "provides"),
    [
        ("rees46", False, "add_to_cart brand category price purchase source_session_id view"),
        (
            "rees46_cosmetics",
            False,
            "add_to_cart brand category price purchase remove_from_cart source_session_id view",
        ),
        ("taobao", False, "add_to_cart category purchase view"),
        ("jdata", True, "add_to_cart brand category purchase remove_from_cart view"),
        ("retailrocket", False, "add_to_cart purchase view"),
        ("retailrocket", True, "add_to_cart category purchase view"),
        (
            "ga4",
            False,
            "add_to_cart brand category login price purchase remove_from_cart "
            "source_session_id view",
        ),
        (
            "simulated",
            False,
            "add_to_cart brand category discount login price purchase remove_from_cart scroll "
            "source_session_id view",
        ),
    ],
)
def test_what_a_shipped_source_provides(name: str, with_items: bool, provides: str) -> None:
    (source,) = load_sources(PROJECT / "configs" / "sources" / f"{name}.yaml")
    assert source.provides(with_items) == provides.split()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nmae": "shop"}, "nmae: no such field; remove it or correct its name"),
        ({"name": "My Shop"}, "name: String should match pattern"),
        ({"format": "xml"}, "format: Input should be 'csv', 'jsonl' or 'parquet'"),
        ({"fields": {"user_id": "u"}}, "fields.event_time: missing; name the log's column for it"),
        ({"fields": SHOP["fields"] | {"prise": "p"}}, "fields.prise"),
        ({"event_types": {"pv": "look"}}, "event_types.pv: Input should be 'view', 'scroll'"),
        ({"ignored": ["pv"]}, "ignored: 'pv' is mapped under event_types as well; drop one"),
        ({"time": {"format": "unix"}}, "time: 'unix' is no time format; use iso, unix_s"),
        ({"time": {"zone": "Mars/Base"}}, "'Mars/Base' is no time zone; use a name such as Asia"),
        ({"float_ids": ["session"]}, "float_ids: 'session' is not among fields; name a field"),
        (
            {"format": "jsonl", "columns": ["a"]},
            "columns: a jsonl file names its columns itself; drop it",
        ),
        (
            {"items": {"format": "csv", "key": "i", "fields": {"price": "p"}}},
            "items: fields.price: a price without a stamp would leak later prices into",
        ),
        ({"limits": {"not_before": "2000-01-01T00:00:00"}}, "limits.not_before: "),
        (
            {"limits": {"not_before": "1994-12-31T00:00:00Z"}},
            "limits: not_before: no event before 1995-01-01 is valid",
        ),
        (
            {"limits": {"max_ahead": "PT25H"}},
            "limits: max_ahead: no event more than 24 hours ahead is valid",
        ),
        ({"limits": {"max_bad_share": 2}}, "limits.max_bad_share: "),
    ],
)
def test_a_mistake_is_named_with_file_field_and_remedy(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, SHOP | change)
    with pytest.raises(NextbuyError, match=re.escape(said)) as caught:
        load_sources(path)
    assert str(path) in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(NextbuyError, match=r"(?s)delimiter.*event_types"):
        load_sources(written(tmp_path, SHOP | {"delimiter": "", "event_types": {"pv": "x"}}))


def test_a_source_file_that_is_not_there_names_those_beside_it(tmp_path: Path) -> None:
    written(tmp_path, SHOP)
    with pytest.raises(NextbuyError, match=r"no source file .*other\.yaml\. Beside it: shop\.yaml"):
        load_sources(tmp_path / "other.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b", ""])
def test_a_source_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(NextbuyError, match=r"shop\.yaml"):
        load_sources(written(tmp_path, text))


def test_numbers_in_yaml_are_names() -> None:
    source = Source.model_validate(SHOP | {"event_types": {1: "view"}, "ignored": [5]})
    assert (list(source.event_types), source.ignored) == (["1"], ("5",))


def test_the_mapping_digest_stands_for_what_an_event_becomes() -> None:
    source = Source.model_validate(SHOP)
    same = [{"ignored": ["fav"]}, {"limits": {"max_bad_share": 1}}, {"event_types": {"x": "view"}}]
    other = [{"money": "cents"}, {"time": {"zone": "Asia/Tokyo"}}, {"nulls": ["-"]}]
    assert {Source.model_validate(SHOP | change).mapping for change in same} == {source.mapping}
    assert source.mapping not in {Source.model_validate(SHOP | change).mapping for change in other}

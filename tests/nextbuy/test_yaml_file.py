import pytest
from pydantic import BaseModel, ConfigDict

from nextbuy.errors import NextbuyError
from nextbuy.yaml_file import load_yaml


class Shop(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = "shop"
    days: dict[str, int] = {}


def test_an_empty_file_leaves_every_default(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "a.yaml", Shop) == Shop()


def test_every_wrong_field_is_named_with_what_to_do(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("nam: x\ndays: {first: many}\n")
    with pytest.raises(NextbuyError) as raised:
        load_yaml(file, Shop, name="shop file", hint="See docs.")
    lines = str(raised.value).splitlines()
    assert lines[0] == f"The shop file {file} has mistakes:"
    assert sorted(lines[1:-1]) == [
        "  days.first: Input should be a valid integer, unable to parse string as an integer",
        "  nam: no such field; remove it or correct its name",
    ]
    assert lines[-1] == "See docs."


def test_a_missing_file_names_those_beside_it(tmp_path):
    (tmp_path / "b.yaml").write_text("")
    with pytest.raises(NextbuyError, match=r"There is no config file .*a\.yaml\. Beside it: b\.y"):
        load_yaml(tmp_path / "a.yaml", Shop)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe"])
def test_what_is_no_yaml_is_an_error_of_ours(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(NextbuyError, match=r"a\.yaml"):
        load_yaml(tmp_path / "a.yaml", Shop)


def test_a_list_instead_of_settings_is_an_error_of_ours(tmp_path):
    (tmp_path / "a.yaml").write_text("- name\n")
    with pytest.raises(NextbuyError, match="has mistakes"):
        load_yaml(tmp_path / "a.yaml", Shop)

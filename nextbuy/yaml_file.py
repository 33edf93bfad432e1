"""A YAML file read into a pydantic model, with errors that name the file, the field and the fix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from nextbuy.errors import NextbuyError

Model = TypeVar("Model", bound=BaseModel)

_KNOWN = {
    "extra_forbidden": "no such field; remove it or correct its name",
    "missing": "missing; add it",
}


def load_yaml(
    file: Path, model: type[Model], *, name: str = "config file", hint: str = ""
) -> Model:
    """Read a file of settings; an empty one leaves every default.

    Args:
        file: the YAML file.
        model: what it has to be.
        name: what to call the file in messages.
        hint: a sentence that says where its fields are explained.

    Raises:
        NextbuyError: there is no such file, it is not YAML, or a field is wrong.
    """
    try:
        content: Any = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        beside = ", ".join(sorted(other.name for other in file.parent.glob("*.yaml"))) or "none"
        raise NextbuyError(f"There is no {name} {file}. Beside it: {beside}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NextbuyError(f"Cannot read the {name} {file}: {error}.") from error
    except yaml.YAMLError as error:
        raise NextbuyError(f"{file} is not valid YAML; correct it where it says: {error}") from None
    try:
        return model.model_validate({} if content is None else content)
    except ValidationError as error:
        raise NextbuyError(mistakes(error, f"The {name} {file}", hint=hint)) from None


def mistakes(
    error: ValidationError, where: str, above: Sequence[str] = (), *, hint: str = ""
) -> str:
    """What is wrong with some settings, a line for each field.

    `above` are the sections that the fields lie in, if the model was only a part of the file.
    """
    lines = [f"  {_problem(detail, above)}" for detail in error.errors(include_url=False)]
    return "\n".join([f"{where} has mistakes:", *lines, *filter(None, [hint])])


def _problem(detail: Any, above: Sequence[str]) -> str:
    # The members of a union stand in the location too; no field of ours is called like a type.
    inside = (str(part) for part in detail["loc"] if part not in ("str", "Expression"))
    field = ".".join([*above, *inside])
    what = _KNOWN.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return f"{field}: {what}" if field else what

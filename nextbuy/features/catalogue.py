"""The feature catalogue, written from the definitions."""

from collections.abc import Sequence

from nextbuy.features import request_features
from nextbuy.features.table import Feature, FeatureTable

COLUMNS = ("name", "type", "meaning", "window", "unit", "source", "cold start")


def catalogue(tables: Sequence[FeatureTable]) -> str:
    """Every table with its features, as Markdown.

    >>> from nextbuy.features import TABLES
    >>> print(catalogue(TABLES).splitlines()[0])
    # Feature catalogue
    """
    total = sum(len(table.features) for table in tables)
    requested = ", ".join(
        f"`{name}` ({text.lower()})" for name, text in request_features.REQUEST.items()
    )
    lines = [
        "# Feature catalogue",
        "",
        f"{total} features in {len(tables)} feature tables. Written by `make docs` from the"
        " definitions in",
        "`nextbuy/features/`; the same texts are the descriptions and tags in Feast's registry.",
        "",
        "*Source* names what a log must bring besides shopper, time, type and item; a log without",
        "it has the feature left out. *Cold start* is what a shopper or item never seen has: no",
        "row, so every feature is missing, and the model is trained on missing values as such. A",
        "zero would claim that something is known.",
    ]
    for table in tables:
        lines += [
            "",
            f"## {table.name}",
            "",
            f"{table.description} Keys: {', '.join(f'`{key}`' for key in table.keys)}."
            + ("" if table.in_model else " Not read by the model."),
            "",
            _row(COLUMNS),
            _row(["---"] * len(COLUMNS)),
            *(_row(_cells(feature)) for feature in table.features),
        ]
    lines += [
        "",
        f"## {request_features.NAME}",
        "",
        f"{request_features.DESCRIPTION} An on-demand feature view: never",
        f"stored. A request brings {requested}. Not read by the model",
        "([decision 6](decisions/006-request-features-beside-the-model.md)).",
        "",
        _row(COLUMNS),
        _row(["---"] * len(COLUMNS)),
        *(_row(_cells(feature)) for feature in request_features.FEATURES),
    ]
    return "\n".join(lines) + "\n"


def _cells(feature: Feature) -> list[str]:
    tags = feature.tags
    return [
        f"`{feature.name}`",
        feature.dtype,
        feature.description,
        *(tags[name] for name in ("window", "unit", "source", "cold_start")),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":  # make docs
    from nextbuy.features import TABLES

    print(catalogue(TABLES), end="")

"""UCI Online Shoppers through our own training code, beside the published XGBoost.

A table of sessions, not of events: it tells whether the trees are fitted as well as elsewhere.
Ten folds as in the publication (PMC10121810: AUROC 0.937, AUPR 0.754), and by month: each of the
last months scored by a model that knows only the earlier ones. `PageValues` is suspected of
looking ahead, so every figure stands with and without it.

python -m benchmarks.uci uci_online_shoppers.csv.gz
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split

from benchmarks.report import FOLDER
from nextbuy.models.booster import fit_booster
from nextbuy.models.families import FAMILIES
from nextbuy.models.family import ModelConfig
from training.train import contract_for

CATEGORIES = (
    "Month", "OperatingSystems", "Browser", "Region", "TrafficType", "VisitorType", "Weekend",
)  # fmt: skip
MONTHS = ("Feb", "Mar", "May", "June", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TESTED = ("Oct", "Nov", "Dec")
CONFIG = ModelConfig(learning_rate=0.03, patience=80, min_child_rows=20)


def read(file: str) -> tuple[pa.Table, np.ndarray]:
    options = csv.ConvertOptions(column_types=dict.fromkeys((*CATEGORIES, "Revenue"), pa.string()))
    table = csv.read_csv(
        file, parse_options=csv.ParseOptions(delimiter=";"), convert_options=options
    )
    labels = np.array([value == "TRUE" for value in table["Revenue"].to_pylist()], np.int8)
    return table.drop_columns("Revenue"), labels


def scores(table, labels, family, train, test):
    """Fit on `train`, a tenth of which stops the fit; score `test`."""
    fitted, held = train_test_split(train, test_size=0.1, stratify=labels[train], random_state=7)
    contract = contract_for(table.take(fitted), tuple(table.column_names), "uci", family, CONFIG)
    matrix = contract.matrix(table)
    parts = [(matrix[rows], labels[rows]) for rows in (fitted, held)]
    return fit_booster(contract, *parts, CONFIG).predict(matrix[test])


def measured(labels, score):
    return {
        "auroc": float(roc_auc_score(labels, score)),
        "aupr": float(average_precision_score(labels, score)),
    }


def mean(results):
    return {name: float(np.mean([r[name] for r in results])) for name in results[0]}


def main(file: str) -> None:
    whole, labels = read(file)
    month = np.array([MONTHS.index(name) for name in whole["Month"].to_pylist()])
    folds = list(StratifiedKFold(10, shuffle=True, random_state=7).split(labels, labels))
    result = {"name": "uci", "work": f"{len(labels):,} sessions", "published": [0.937, 0.754]}
    for values, table in {
        "with PageValues": whole,
        "without PageValues": whole.drop_columns("PageValues"),
    }.items():
        for family in FAMILIES:
            by_fold = mean(
                [measured(labels[e], scores(table, labels, family, r, e)) for r, e in folds]
            )
            by_month = {
                name: measured(
                    labels[month == MONTHS.index(name)],
                    scores(
                        table, labels, family,
                        np.flatnonzero(month < MONTHS.index(name)),
                        np.flatnonzero(month == MONTHS.index(name)),
                    ),
                )
                for name in TESTED
            }  # fmt: skip
            result[f"{family} {values}"] = {"ten folds": by_fold, "by month": by_month}
            print(f"{family} {values}: {by_fold}; by month {by_month}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "uci.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists():
        sys.exit(__doc__)
    main(sys.argv[1])

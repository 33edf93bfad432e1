import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import ndcg_score

from training.breakdowns import session_level, slices
from training.metrics import RANKING, Sample, paired_difference, session_ranking

RNG = np.random.default_rng(11)


def sample(rows=3_000, sessions=400):
    session = RNG.integers(0, sessions, rows)
    labels = (RNG.random(rows) < 0.15).astype(np.int8)
    users = np.array([f"u{s // 2}" for s in session], object)
    return Sample(labels, users, session % 2), session


def test_ndcg_and_hit_rate_are_sklearn_s_per_session():
    found, session = sample()
    score = RNG.random(len(session)) + 0.5 * found.labels
    wanted, hits = [], []
    for s in np.unique(session):
        rows = session == s
        if rows.sum() > 1 and found.labels[rows].any():
            wanted.append(ndcg_score([found.labels[rows]], [score[rows]], k=10))
            hits.append(found.labels[rows][np.argmax(score[rows])])
    measured = session_ranking(found, score)
    assert measured["ndcg_10"]["value"] == pytest.approx(np.mean(wanted))
    assert measured["hit_rate_1"]["value"] == pytest.approx(np.mean(hits))
    assert measured["ndcg_10"]["low"] < measured["ndcg_10"]["value"] < measured["ndcg_10"]["high"]


def test_a_session_with_one_item_or_no_purchase_is_not_asked():
    alone = Sample(
        np.array([1, 0, 0], np.int8), np.array(["a", "b", "b"], object), np.zeros(3, int)
    )
    assert session_ranking(alone, np.ones(3)) == {}


def test_a_paired_difference_is_zero_with_itself_and_surer_than_two_intervals():
    found, _ = sample()
    good = RNG.random(len(found.labels)) + 0.5 * found.labels
    better = good + 0.1 * found.labels
    same = paired_difference(found, good, good, RANKING["pr_auc"])
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    gain = paired_difference(found, better, good, RANKING["pr_auc"])
    assert 0 < gain["low"] < gain["value"] < gain["high"]


def test_sessions_combine_probabilities_and_take_the_best_of_anything_else():
    users = np.array(["a", "a", "b", "c"], object)
    found = Sample(np.array([0, 1, 0, 0], np.int8), users, np.zeros(4, int))
    scores = {"model": np.array([0.5, 0.5, 0.6, 0.1]), "rule": np.array([-9.0, 7.0, 3.0, 3.0])}
    measured = session_level(found, scores, "model")
    assert measured["model"]["pr_auc"]["value"] == 1.0  # 0.75 beats 0.6
    assert measured["rule"]["pr_auc"]["value"] == 1.0
    assert measured["difference to rule"]["pr_auc"]["value"] == 0.0


def test_slices_hold_what_their_name_says_and_leave_out_what_says_nothing():
    rows = 4_000
    table = pa.table(
        {
            "event_timestamp": pa.array(
                RNG.integers(0, 28 * 86_400_000_000, rows), pa.timestamp("us", "UTC")
            ),
            "user__n_sessions": RNG.integers(1, 4, rows),
            "item__category": ["toys"] * (rows - 5) + ["books"] * 5,
        }
    )
    labels = (RNG.random(rows) < 0.1).astype(np.int8)
    found = dict(slices(table, labels))
    first = table["user__n_sessions"].to_numpy() == 1
    np.testing.assert_array_equal(found["first session"], first)
    np.testing.assert_array_equal(found["returning shopper"], ~first)
    assert "category toys" in found
    assert "category books" not in found
    assert "in the cart" not in found  # a log without a cart
    weekday = [moment.weekday() for moment in table["event_timestamp"].to_pylist()]
    np.testing.assert_array_equal(found["Sunday"], np.array(weekday) == 6)

"""The published numbers that ours stand beside: notebooks/published.csv."""

import pandas as pd

from manyviews.config import paths

PUBLISHED = pd.read_csv(paths.NOTEBOOKS / "published.csv")


def test_an_image_costs_its_views_times_the_epochs():
    both = PUBLISHED.dropna(subset=["views", "epochs"])
    assert len(both) > 0
    assert (both["view_epochs"] == both["views"] * both["epochs"]).all()


def test_every_number_says_where_it_stands_and_what_it_measures():
    said = PUBLISHED[["source", "reference", "dataset", "method", "measure", "view_epochs"]]
    assert said.notna().all(axis=None)
    assert not PUBLISHED.duplicated().any()


def test_accuracies_are_percents():
    assert PUBLISHED["accuracy"].between(1, 100).all()  # a fraction would be below 1


def test_a_schedule_had_ended_or_had_not():
    assert set(PUBLISHED["annealed"]) == {"yes", "no"}
    unfinished = PUBLISHED[PUBLISHED["annealed"] == "no"]
    assert unfinished["note"].notna().all()  # says of what schedule it is a point

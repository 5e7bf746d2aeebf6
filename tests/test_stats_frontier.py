"""What a budget buys, of made-up costs and accuracies: MACs go with depth, width, views and epochs."""

import pytest
from made_up import around, made_up_runs

from manyviews.stats.compare import final_accuracy
from manyviews.stats.frontier import cheapest_reaching, recipes
from manyviews.stats.intervals import FIELDS

KNN = "id_knn_accuracy"
UNIT = 3 * 18e6 * 64 * 200 * 8  # MACs of the baseline: three passes, depth, width, images, views of each
# Cost as a multiple of the baseline's, views of an image, final accuracy, and whether it is on the frontier.
RECIPES = {
    "length_quarter": (1 / 4, 2, 0.28, True),
    "length_half": (1 / 2, 4, 0.35, True),
    "sgd": (1, 8, 0.34, False),
    "baseline": (1, 8, 0.33, False),  # of equal cost, and behind the better one
    "resnet34": (34 / 18, 8, 0.345, False),
    "length_2": (2, 16, 0.52, True),
    "length_4": (4, 32, 0.48, False),
    "views8": (4 * 34 / 18, 32, 0.61, True),
    "length_8": (8, 64, 0.57, False),
}
# Each would be the best at its price, if it could be compared.
LEFT_OUT = made_up_runs({"supervised": around(0.9)}) | made_up_runs({"width_half": [0.87, 0.91]})
LEFT_OUT |= made_up_runs({"temperature_01": around(0.8)}, precision="bfloat16")
LEFT_OUT |= made_up_runs({"joint": around(0.85)}, device_type="cuda")
RUNS = made_up_runs({name: around(final) for name, (_, _, final, _) in RECIPES.items()}) | LEFT_OUT
RUNS = {"resnet18_views8": RUNS["length_4"]} | RUNS  # another name of it
TABLE = recipes(RUNS, KNN, "baseline")


def test_recipes_are_those_that_can_be_compared_by_cost_each_once():
    assert list(TABLE["run"]) == list(RECIPES)
    of_table = zip(TABLE["macs"] / UNIT, TABLE["views"], TABLE["mean"], TABLE["frontier"], strict=True)
    for found, expected in zip(of_table, RECIPES.values(), strict=True):
        assert found == pytest.approx(expected)
    last = TABLE.iloc[-1]
    assert tuple(last[list(FIELDS)]) == tuple(vars(final_accuracy(RUNS["length_8"], KNN)).values())


def test_recipes_are_compared_in_the_precision_and_by_the_measure_asked_for():
    of_gpu = recipes(RUNS, "ood_knn_folds_accuracy", "joint")
    assert list(of_gpu["run"]) == ["joint"]
    assert of_gpu["mean"].item() == pytest.approx(0.85 - 0.04, abs=1 / 800)


@pytest.mark.parametrize(
    ("accuracy", "cheapest"),
    [(0.1, "length_quarter"), (0.33, "length_half"), (0.36, "length_2"), (0.53, "views8"), (0.62, None)],
)
def test_an_accuracy_costs_what_the_cheapest_recipe_that_reaches_it_does(accuracy, cheapest):
    reaching = cheapest_reaching(TABLE, accuracy)
    assert (None if reaching is None else reaching["run"]) == cheapest
    for row in TABLE.itertuples():
        assert cheapest_reaching(TABLE, row.mean)["macs"] <= row.macs  # it reaches its own


@pytest.mark.parametrize("runs", [{}, LEFT_OUT, {"baseline": RUNS["baseline"][:2]}])
def test_nothing_to_compare_buys_nothing(runs):
    table = recipes(runs, KNN, "baseline")
    assert list(table) == list(TABLE)
    assert table.empty
    assert cheapest_reaching(table, 0.0) is None

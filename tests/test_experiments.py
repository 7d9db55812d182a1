"""The tables of short runs belong to what they are said to compare."""

import dataclasses
import json

import pandas as pd

from experiments import s7


def test_the_ablation_is_of_the_recipe_that_trains_s7():
    """Where this fails, the recipe has changed since: delete the table and measure again."""
    table = pd.read_csv(s7.TABLE)
    for _, rows in table.groupby("seed"):
        assert list(rows["name"]) == list(s7.VARIANTS)
    for row in table.to_dict("records"):
        assert json.loads(row["recipe"]) == dataclasses.asdict(s7.VARIANTS[row["name"]].recipe)

"""The tables of short runs belong to what they are said to compare."""

import dataclasses
import json

import pandas as pd
import pytest

from experiments import rates, s7
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT
from helpers.training.recipes import Recipe, shortened


def test_the_ablation_is_of_the_recipe_that_trains_s7():
    """Where this fails, the recipe has changed since: delete the table and measure again."""
    table = pd.read_csv(s7.TABLE)
    for _, rows in table.groupby("seed"):
        assert list(rows["name"]) == list(s7.VARIANTS)
    for row in table.to_dict("records"):
        assert json.loads(row["recipe"]) == dataclasses.asdict(s7.VARIANTS[row["name"]].recipe)


@pytest.mark.parametrize("notebook", ["S7", "S9"])
def test_what_was_tried_is_what_its_name_says(notebook):
    for row in pd.read_csv(ROOT / "results" / notebook / "tried.csv").to_dict("records"):
        recipe = Recipe(**json.loads(row["recipe"]))
        of, changes = row["name"].split(": ")
        told = f"{row['training images']:,} images, {recipe.epochs} epochs"
        assert of.endswith(f", {told}")
        for key, value in (change.split(" ") for change in changes.split(", ")):
            assert str(getattr(recipe, key)) == value


def test_rates_are_those_that_their_names_say_and_the_best_is_never_the_first_or_last():
    """Else the sweep would not tell which rate is best."""
    table = pd.read_csv(rates.TABLE)
    for row in table.to_dict("records"):
        name, optimizer, rate = row["name"].split(", ")
        assert f"{row['learning rate']:g}" == rate
        recipe = shortened(RUNS[name].recipe, rates.PROFILE, rates.IMAGES)
        recipe = dataclasses.replace(recipe, optimizer=optimizer, max_lr=row["learning rate"])
        assert json.loads(row["recipe"]) == dataclasses.asdict(recipe), row["name"]
    sweeps = table.groupby([table["name"].str.rpartition(", ")[0], "seed"])
    assert len({name.split("/")[1].split(",")[0] for (name, _), _ in sweeps}) == 6, "six networks"
    for (name, seed), rows in sweeps:
        assert len(rows) == len(rates.FACTORS) or seed > 0, name
        losses = rows.sort_values("learning rate")["validation loss"].to_numpy()
        assert 0 < losses.argmin() < len(rows) - 1, (name, seed)

"""How networks are trained: recipes, first weights, the loop, checkpoints, the range test."""

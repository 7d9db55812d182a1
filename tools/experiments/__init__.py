"""Short training runs that justify choices in the notebooks."""

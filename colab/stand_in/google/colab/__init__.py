"""A stand-in for the part of Colab's own package that the notebooks use."""

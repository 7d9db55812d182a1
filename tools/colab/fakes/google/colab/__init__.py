"""An imitation of the parts of Colab's own package that the notebooks use."""

"""Python imports this at its start: Colab has loaded `google.colab` before the first cell."""

import google.colab  # noqa: F401

"""Import `google.colab` when Python starts, as Colab does before the first cell."""

import google.colab  # noqa: F401

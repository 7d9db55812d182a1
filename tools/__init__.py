"""Tools around the package: benchmarks, short training experiments, and the Colab rehearsal."""

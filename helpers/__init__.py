"""Thin package behind the CIFAR-10 notebooks; README.md lists its modules in reading order.

Nothing happens at import.
"""

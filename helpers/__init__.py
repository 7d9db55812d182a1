"""Thin package behind the CIFAR-10 notebooks; README.md lists its folders in reading order.

Nothing happens at import.
"""

"""Thin package behind the CIFAR-10 notebooks.

Read it in the order in which its modules import one another: `settings`, `data`, `transforms`,
`models` -> `receptive_field`, `summary`, `requirements` -> `initialisation`, `checkpoints`,
`training` -> `evaluation` -> `runs` -> `plots`, `notebook`. Nothing happens at import.
"""

"""The runs: their list, how one is conducted, what it leaves, and whether that holds."""

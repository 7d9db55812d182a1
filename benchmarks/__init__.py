"""What this way of training is worth against the hand-ins', measured side by side in one run."""

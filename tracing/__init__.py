"""The layers of any PyTorch network, read off one forward pass: what they are, what they see."""

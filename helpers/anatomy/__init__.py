"""What a network is made of, what it sees, and what the assignments ask of it."""

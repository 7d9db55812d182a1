"""What keeps the series in shape: notebooks executed, kept results verified, pages written."""

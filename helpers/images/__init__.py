"""From files to batches: downloads, images in memory, augmentation, batches."""

"""Modules on (B, T, D): mixers along the sequence, the feed-forward along the channels, and the stack that alternates them."""

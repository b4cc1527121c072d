"""What the core needs from outside, as promises; adapters keep them."""

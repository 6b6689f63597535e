"""How KEKs come into memory, how they stay fresh, and what a failed load means for them."""

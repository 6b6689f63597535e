"""The contract's messages: their sizes, and their conversion to plain values and back."""

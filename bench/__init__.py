"""The benchmark; README.md says what it measures."""

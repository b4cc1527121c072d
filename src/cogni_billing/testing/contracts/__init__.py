"""What every adapter promises, as tests, by subject."""

"""The promises of every adapter, as tests, by subject."""

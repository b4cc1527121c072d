"""What every adapter promises, as tests: inherit a class, give it the fixtures of `Contract`.

The fixtures reach below the adapter (`totals`), so that it cannot vouch for itself.
"""

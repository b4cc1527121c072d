"""Checks of doctor on the running database, each a function with its SQL.

A check yields defects. `blueprint` and `definitions` describe a valid database.
"""

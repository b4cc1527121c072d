"""Checks of doctor on the running database, each a function with its SQL.

A check yields findings. `blueprint` and `definitions` describe a valid database.
"""

"""The questions that doctor asks of the running database, one function each, with its SQL.

A question yields findings. `blueprint` and `definitions` say how a sound database looks.
"""

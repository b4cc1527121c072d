"""The calls of the doors: what each one means, without I/O.

A function here takes a `Context` and a request, validates, plans (pure), and returns a `Case`: a
value that a unit of work runs, called or awaited.
"""

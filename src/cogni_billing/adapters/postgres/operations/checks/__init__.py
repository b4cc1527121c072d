"""What doctor asks of the running database, one function a question, each with its SQL.

A question yields what it finds wrong, and how to mend it; `blueprint` and `privileges` say what
would be right.
"""

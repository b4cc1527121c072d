"""Servers, clients, attackers and observers for the tests of the stack."""

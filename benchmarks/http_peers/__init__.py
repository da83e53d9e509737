"""Servers written by hand with other tools, to compare the service with.

They run in an environment of their own (requirements/peers.txt).
"""

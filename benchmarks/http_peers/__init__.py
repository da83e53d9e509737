"""What someone would write by hand with the peers' own tools, to compare the service with.

These files run in an environment of the peers' (requirements/peers.txt), not in ours.
"""

"""The pure core of a host: faults and reclaim as effect coroutines. No I/O, no clock, no threads, no chance of its own.

Code between two yields is atomic; a yield drops every lock, and what was read before it is stale until rechecked.
"""

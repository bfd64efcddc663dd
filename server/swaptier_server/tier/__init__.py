"""The pure core of the server: areas, slots, pool, device. No I/O, no clock, no threads, no chance of its own.

Every operation is one atomic step: it returns before another begins, so the core needs no locks. Start reading at
`slot.py` (the life of a slot), then `area.py` (the state), then what each request does to it: `store.py`, `load.py`,
`free.py`, and `write_back.py`. `tier.py` has all areas, `shrinker.py` makes room, `swap_file.py` outlives the rest.
"""

"""An emulated host: faulting processes, one swap map, one swapcache, and the stream to its tiers."""

"""mm and tier in one process, in lock-step: no network, no clock, nothing that the caller did not choose."""

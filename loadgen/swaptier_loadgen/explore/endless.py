"""Which states can never end: from them every schedule goes on for ever. Asked once everything was met.

Pure. A state that waits for luck is no such state: some schedule from it ends. One from which none does is a livelock,
however many tasks take part in it.
"""


class Edges:
    """Which state leads to which, by their numbers."""

    def __init__(self) -> None:
        self._froms: list[int] = []
        self._tos: list[int] = []

    def add(self, source: int, target: int) -> None:
        """Note that a transition leads from *source* to *target*."""
        self._froms.append(source)
        self._tos.append(target)

    def first_without_end(self, states: int, ended: list[int]) -> int | None:
        """Return the lowest of the numbers 0 to *states* - 1 from which none of *ended* can be reached, or None.

        Numbers are given breadth first, so the lowest is one that is reached in the fewest steps.
        """
        sources: list[list[int]] = [[] for _ in range(states)]
        for source, target in zip(self._froms, self._tos, strict=True):
            sources[target].append(source)
        can_end = bytearray(states)
        reached = list(ended)
        for number in reached:
            can_end[number] = 1
        while reached:
            for source in sources[reached.pop()]:
                if not can_end[source]:
                    can_end[source] = 1
                    reached.append(source)
        first = can_end.find(0)
        return None if first < 0 else first

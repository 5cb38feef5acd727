"""Replay of recorded order flow: reading recordings, planning sessions, sending, accounting."""

#: Of a recording; formats.py reads them. Here, where command lines can have it without numpy.
FORMATS = ("csv", "ob-analytics", "lobster")

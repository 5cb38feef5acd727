"""Replay of recorded order flow: reading recordings, planning sessions, sending, accounting."""

"""``rdmaorder pingpong``: latency of the order path, level by level, beside what else there is.

Everything around the measuring loops, which are C++ (``rdmaorder/pingpong.hpp``): two pinned
processes, the floor around every run, references in turn, statistics, reports, comparison.
"""

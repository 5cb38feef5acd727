"""The fault suite: real processes, faults by plan, an independent ledger, an audit."""

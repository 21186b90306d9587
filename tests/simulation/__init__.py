"""Every order of events that chance and Hypothesis think of, one statement at a time, on the real ledger: beside a model of what must come of it."""

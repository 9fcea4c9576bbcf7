"""What watches over a run: hangs, failures, signals, injected faults and the ledger of costs."""

"""The doctor: what each rank sees, what is wrong with it, and one line of advice for each."""

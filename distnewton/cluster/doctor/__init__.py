"""The doctor: it examines what each rank sees, and gives a line of advice for each problem."""

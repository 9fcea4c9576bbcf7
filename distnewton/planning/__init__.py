"""What a run will cost before there is one: messages, memory and seconds of each rank, and the splits that follow."""

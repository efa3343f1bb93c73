"""Effects. Trials of one layer after the other that run no more of the model than they must."""

"""Pure. When and where work is done: costs, forecasts, fairness, windows, retries, and the scheduler itself."""

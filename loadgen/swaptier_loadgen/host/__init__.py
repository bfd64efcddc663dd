"""One host process: its workload, contents, oracle and reports."""

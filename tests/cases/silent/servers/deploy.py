# Never reached.

"""One runnable file per figure that the documentation quotes; each prints what it measured beside a peer or a budget."""

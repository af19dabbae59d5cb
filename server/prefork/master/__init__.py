"""The parent's side of the fork: one thread, one selector, no event loop, and never a client's byte.

loop         wait for events, handle each, carry out what policy decided and what people ask for
signals      a table from signal to intent; events is the one selector
pool         the workers as records, and the table of their transitions
policy       pure: pool + clock → actions; spare is how many workers there should be
children     the workers as children, from fork to burial; process is the one fork of the program
generations  reloads: the plans, and who waits for how one ends
succession   who is the master; upgrade is what is passed on between two
control      the socket on which `prefork status`, `stop` and `scale` arrive; commands is who asked for what
status       what `prefork status` shows; metrics and exposition are the same for Prometheus
notify       what a service manager is told; expiry is when to warn of certificates
"""

"""The parent's side of the fork: one thread, one selector, no event loop, and never a client's byte.

loop        wait for events, handle each, reap, carry out what policy decided
signals     a table from signal to intent
pool        the workers as records, and the table of their transitions
policy      pure: pool + clock → actions
process     the one fork of the program
control     the socket on which `prefork status`, `stop` and `scale` arrive
status      what `prefork status` shows
"""

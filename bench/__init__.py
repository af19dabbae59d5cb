"""What prefork costs, against C and against its peers, side by side in one run: `python -m bench`, or `make bench`.

It owns starting the servers, loading them, and saying what was measured. It never changes what it measures: every
server is started as its users start it.
"""

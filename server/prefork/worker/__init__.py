"""The child's side of the fork: boot, accept, serve, drain, leave.

    post        what a worker is given at its fork, and what it tells the master
    boot        its first steps, and the choice of its model
    orders      what it is told: signals, and the master's death
    accept      step 5: whose turn it is, and what to do when accept(2) fails
    sync · threads · aio    the three models

A worker never forks, never binds, and never writes into another's row of the scoreboard.
"""

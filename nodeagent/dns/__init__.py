"""The node's name service: containers' names for each other, and the host's resolvers for everything else.

    facts     what one object says about names                    (pure)
    zone      all names of the node's networks, by who asks       (pure)
    wire      bytes of a query, bytes of an answer                (pure; only importer of dnslib)
    answers   query in, packed answer out, remembered             (pure)
    reader    a thread that answers what is remembered
    upstream  everything else, asked of the host's resolvers
    server    sockets on the bridges' addresses
    feed      how the agent tells this process what it knows

A process of its own (decision 0015): it answers while the agent is busy, restarts or is gone.
"""

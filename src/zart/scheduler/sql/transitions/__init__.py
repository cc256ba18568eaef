"""Every change of state, once for all databases.

Each function takes a `Transaction` and may be run again from the top: after a serialization
failure, a deadlock, a dropped connection, or a COMMIT whose answer was lost. So each one finds
out from what it reads whether its work is done already.
"""

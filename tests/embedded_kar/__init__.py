"""KAR for one user on one machine, to try the example without Kafka and Redis.

The modules stand along the way of a call: command_line starts launcher, which runs a component of
the application beside its sidecar; sidecar takes the component's calls, replicas chooses who
answers, call delivers. None knows the one before.
"""

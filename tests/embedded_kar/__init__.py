"""KAR for one user on one machine, to try an application without Kafka and Redis.

How a call travels from one component of an application to another:

    process ---> sidecar ---> delivery ---> http_client ---> process of the service
                                 |               |
                              registry          h2c

- cli: reads the command line. For kar run, it starts a sidecar and the process of the component.
- process: starts the command of the component, copies its output, and determines the exit status.
- sidecar: the HTTP API that the process of the component calls.
- registry: knows the live sidecars of the application, which find each other in a directory.
- delivery: chooses a replica of the service, follows redirects, and sends the request again where
  KAR would.
- http_client: sends one request to one replica, over HTTP/1.1 with httpx, or to a service with
  -h2c over HTTP/2 with the client in h2c, which repeats a request that was not processed.
- refusals: decides which calls are refused, because they would hang, be damaged or be lost on the
  real KAR. The caller gets status 501, or KAR's own 500, and its kar logs the reason.
- go_text: how Go, the language of KAR, reads and writes text.
- output: how kar writes its own lines.

The embedded KAR is deliberately more lenient than the real one in a few points:

- A line of output may be longer than 65,535 bytes.
- The exit status of a program that exits at once is passed on.
- A grandchild that holds the output open does not keep kar from exiting.
- Since it keeps no calls in Kafka, kar waits for the asynchronous calls of its program before it
  exits.
- A replica gets calls within 0.5 s of its start. The real KAR needs seconds.

In other points it is stricter: it refuses each HEAD request, each redirect to another host name or
port, promises, actors and events; and it gives up calls that KAR would repeat for 15 minutes.
"""

"""An HTTP server with limits on what callers can make it do: uvicorn, with its own protocol class.

- `limits`    the bounds, and why they are what they are
- `listening` opens the sockets
- `protocol`  one connection: bounds on heads, bodies, framing and the time that they may take
- `server`    accepts connections, and closes the longest idle one if there are too many

The HTTP front (`tidepool.web`) and a worker's port for health and metrics (METRICS_PORT) run on this server. Importing
this package imports uvicorn, which takes 4 MB: a worker does so only if it has a METRICS_PORT.
"""

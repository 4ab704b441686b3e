"""Experiments that find good settings by measuring: for the connection pool, its layout, and the load of users.

- `tune`       finds the best pool size, or value of another setting. `trials` makes the order of measurements; `arm`
               makes one of them, under the closed `load` of a `mix` of jobs; `knee` finds the best value; `record`
               keeps the measurements; `findings` prints and `plot` draws them; `tune_command` is the command line
- `pool-test`  more and more concurrent callers of one pool: `holders` hold its connections, `pool_test_command` is the
               command line
- `layouts`    one pool, several pools, and several processes: `layouts` compares them, each process is a `shard`,
               `layouts_command` is the command line
- `load-test`  concurrent `users`, whose `requests` are jobs or HTTP; `load_test_command` is the command line

The measured workers are the service's own: `workers` starts them as the `arq` command does, with other settings. The
servers come from `lab.bench.servers`; `numbers` parses numbers on the command lines. The service uses none of this.
"""

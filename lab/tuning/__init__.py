"""The pool laboratory: experiments that anybody can run, on servers of their own, and that keep their proof.

- `tune`      the best pool size, or value of another setting: `trials` are its order, `arm` measures one of them under
              the closed `load` of a `mix` of jobs, `knee` reads the result, `record` keeps it, `findings` tells it,
              `plot` draws it; `tune_command` is the command line
- `pool-test` more and more callers at one pool: `holders` hold its connections, `pool_test_command` tells it
- `layouts`   one pool, several, and several processes: `layouts` compares them, each process is a `shard`,
              `layouts_command` tells it
- `load-test` concurrent `users`, whose `requests` are jobs or HTTP; `load_test_command` tells it

What is measured is the product itself: `workers` starts its processes as the `arq` command does, with another setting.
The servers are those of `lab.bench.servers`; `numbers` reads those on the command lines. No code of the service uses
any of it.
"""

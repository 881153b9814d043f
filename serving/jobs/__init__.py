"""Video jobs: whole inspections scored behind the HTTP service, in processes of their own, kept in SQLite.

    routes.py    HTTP: requests in, documents out       uploads.py   bodies to disk, bounded while they stream
    desk.py      what the routes ask for                video_root.py  paths under PIPEPROBE_VIDEO_ROOT
    table.py     SQLite: schema and transactions        job.py       one row of it
    store.py     what callers do with the table         leases.py    what runners do with it
    runner.py    takes jobs, one thread each            child.py     the process of a job, seen from outside
    worker.py    the process of a job, from inside      cleanup.py   what is deleted when
    folder.py    where files lie, and how much room is  metrics.py   Prometheus

A job survives the process that runs it: whoever runs one renews a lease in the table. A job whose lease has run out
is taken up again from its start by any process that shares the folder, up to a number of attempts. Each
taking gets a number of its own, and only the latest may write the job's end.
"""

"""The adapters of the `WorkerPool` port: functions of this process, and processes of their own."""

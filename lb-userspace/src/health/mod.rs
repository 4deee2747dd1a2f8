//! Health checks: a sans-io state machine per backend, and the tasks that feed it.

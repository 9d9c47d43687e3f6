//! Asks the source and its replicas, when somebody waits for it, what their readers see.

//! Waits with a time-out and a sentence that says what never came true.

use std::time::{Duration, Instant};

/// Long enough for a busy machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it returns `Some`. Panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, condition)
}

/// [`until`] with its own time-out.
#[track_caller]
pub fn until_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < patience, "after {patience:?} it never came true that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, dead_code)]
mod support;
mod torture;
mod chaos {
    pub mod history;
}
mod protocol {
    pub fn lease_of(key: &[u8]) -> Vec<u8> {
        [b"{", key, b"}:lease"].concat()
    }
}
